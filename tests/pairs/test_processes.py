"""Several real processes add up to one: every answer, every gradient."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from unittest.mock import patch

import pytest
import torch

from tests.pairs.dense import REQUESTS, blocks_of, cut_blocks, leaves, mix, unit
from tests.processes import run_processes
from vlp.ground import dist
from vlp.ground.types import Embeddings
from vlp.pairs import HIST, LSE, TOPK, Block, Pairs, pair_stats
from vlp.pairs.engine import matrix, tiles

SIZE = 12
WIDTHS = (2, 4, 6)
AT_WIDTHS = ("both", "all", "rectangular", "twins", "means")


def weighted(stats, rows):
    """Return the part of `mix` that the answers of some rows of the batch make."""
    total = torch.zeros((), dtype=torch.float64)
    for k, ((_, request), values) in enumerate(stats.items()):
        if isinstance(request, TOPK):
            continue
        size, part = (len(values), 1 / (SIZE // (rows.stop - rows.start))) if isinstance(request, HIST) else (0, 1)
        if not size:
            times = len(values) // (rows.stop - rows.start)
            size, place = times * SIZE, slice(times * rows.start, times * rows.stop)
        else:
            place = slice(None)
        weights = part * torch.linspace(0.5, 1.5, size, dtype=torch.float64)[place]
        finite = values.where(values != -torch.inf, 0)
        total = total + ((k + 1) * weights * (finite + 0.1 * finite.tanh())).sum()
    return total


def local_blocks(image, text, scale, bias, ids=None):
    """Cut the blocks of one process: local embeddings with gradient, everything else of the whole batch."""
    whole = blocks_of(*leaves(SIZE), ids)
    local = blocks_of(image, text, scale, bias)
    sides = {}
    for name, block in whole.items():
        for part in ("rows", "columns"):
            cut, full = getattr(local[name], part).local, getattr(block, part)
            start = cache(partial(dist.start_gathering, cut))
            side = replace(full, local=cut, gather=lambda start=start: start().wait(), start=start)
            sides.setdefault(id(full), side)
    return {name: Block(sides[id(b.rows)], sides[id(b.columns)], scale, bias) for name, b in whole.items()}


def engine_on(rank, world_size):
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    answers = {}
    for name, requests in REQUESTS.items():
        image, text, scale, bias = leaves(SIZE)
        local = [leaf.detach().requires_grad_() for leaf in (image[rows], text[rows], scale, bias)]
        stats = pair_stats(local_blocks(*local), requests, tile_size=3)
        loss = weighted(stats, rows)
        found = torch.autograd.grad(loss, local, allow_unused=True)
        found = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, local, strict=True)]
        largest = [values.numpy() for (_, request), values in stats.items() if isinstance(request, TOPK)]
        answers[name] = [largest, loss.item(), *(g.numpy() for g in found)]
    return answers


def widths_of(requests):
    return {f"{name}@{width}": asked for name, asked in requests.items() for width in WIDTHS}


def widths_on(rank, world_size):
    """Several widths in one walk: return the gradients of one process, and how many walks there were."""
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    found = {}
    for name in AT_WIDTHS:
        image, text, scale, bias = leaves(SIZE)
        local = [leaf.detach().requires_grad_() for leaf in (image[rows], text[rows], scale, bias)]
        blocks = cut_blocks(local_blocks(*local), WIDTHS)
        stats = pair_stats(blocks, widths_of(REQUESTS[name]), tile_size=3, kept_bytes=2**6)
        loss = weighted(stats, rows)
        walks = {values.grad_fn for values in stats.values() if values.grad_fn is not None}
        found[name] = len(walks), loss.item(), [each.numpy() for each in torch.autograd.grad(loss, local[:3])]
    return found


def sums_on(rank, world_size):
    size = 6 // world_size
    rows = slice(rank * size, (rank + 1) * size)
    values = unit(6, 2, 1)[rows, 0].clone().requires_grad_()
    embeddings = Embeddings(unit(6, 2, 1)[rows], unit(6, 2, 2)[rows], torch.tensor(1.0), torch.tensor(0.0))
    pairs = Pairs(embeddings, torch.arange(size), torch.arange(size))
    total, log_total = pairs.total(values.sum()), pairs.log_total_exp(5 * values)
    share = pairs.share(total**2 + log_total) + pairs.mean(values)
    share.backward()
    return share.item(), total.item(), values.grad.tolist(), pairs.sizes()


def engine_ahead_on(rank, world_size):
    """The same, walking what is there while the rest is on its way, however little it is."""
    with patch.object(matrix, "FEWEST_OWN", 1):
        return engine_on(rank, world_size)


def order_on(rank, world_size):
    """Return how many tiles were multiplied before and after the columns of others were waited for, by request."""
    events, tile, wait = [], tiles.Tile.__init__, dist.ArrivingRows.wait

    def multiplied(*given, **named):
        events.append("tile")
        tile(*given, **named)

    def waited(rows):
        events.append("wait")
        return wait(rows)

    found = {}
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    for name in ("image_text", "image_image"):
        image, text, scale, bias = leaves(SIZE)
        block = local_blocks(image[rows], text[rows], scale, bias)[name]
        events.clear()
        with (
            patch.object(matrix, "FEWEST_OWN", 1),
            patch.object(tiles.Tile, "__init__", multiplied),
            patch.object(dist.ArrivingRows, "wait", waited),
        ):
            pair_stats({name: block}, {name: [LSE("row")]}, tile_size=2)
            found[name] = events.index("wait"), events.count("tile")
            events.clear()
            pair_stats({name: local_blocks(image[rows], text[rows], scale, bias)[name]}, {name: [LSE("row")]})
            found[name] += (events.count("wait"),)
    return found


def both_on(rank, world_size):
    ways = engine_on(rank, world_size), engine_ahead_on(rank, world_size)
    return ways, sums_on(rank, world_size), widths_on(rank, world_size), order_on(rank, world_size)


@pytest.fixture(scope="module", params=[2, 3])
def parts(request):
    return run_processes(both_on, request.param)


@pytest.mark.claim
@pytest.mark.processes
@pytest.mark.parametrize("way", [0, 1], ids=["all at once", "own first"])
def test_processes_add_up_to_one(parts, way):
    for name, requests in REQUESTS.items():
        inputs = leaves(SIZE)
        stats = pair_stats(blocks_of(*inputs), requests, tile_size=5)
        loss = mix(stats)
        largest, losses, images, texts, scales, biases = zip(*(part[0][way][name] for part in parts), strict=True)
        whole = [values for (_, request), values in stats.items() if isinstance(request, TOPK)]
        for expected, *pieces in zip(whole, *largest, strict=True):
            assert torch.equal(torch.cat([torch.as_tensor(piece) for piece in pieces]), expected), name
        assert sum(losses) == pytest.approx(loss.item(), rel=1e-12)
        together = [torch.cat([torch.as_tensor(p) for p in pieces]) for pieces in (images, texts)]
        together += [torch.as_tensor(sum(scales)), torch.as_tensor(sum(biases))]
        wanted = torch.autograd.grad(loss, inputs, allow_unused=True)
        for ours, theirs in zip(together, wanted, strict=True):
            expected = torch.zeros_like(ours) if theirs is None else theirs
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.processes
def test_what_is_there_is_walked_while_the_rest_arrives(parts):
    size = SIZE // len(parts)
    high = -(-size // 2)  # tiles of a side
    for part in parts:
        assert part[3]["image_text"][0] == high**2
        assert part[3]["image_image"][0] == high * (high + 1) // 2
        assert all(before < number for before, number, _ in part[3].values())


@pytest.mark.processes
def test_who_walks_no_tile_of_others_waits_for_their_columns_all_the_same(parts):
    """Of two processes one has the only tile that they share, and the way back reads what both have."""
    assert all(waits > 0 for part in parts for *_, waits in part[3].values())


@pytest.mark.processes
def test_processes_walk_several_widths_at_once_and_add_up_to_one(parts):
    for name in AT_WIDTHS:
        inputs, requests = leaves(SIZE), widths_of(REQUESTS[name])
        loss = weighted(pair_stats(cut_blocks(blocks_of(*inputs), WIDTHS), requests), slice(0, SIZE))
        walks, losses, found = zip(*(part[2][name] for part in parts), strict=True)
        assert set(walks) == {len(REQUESTS[name])}, name
        assert sum(losses) == pytest.approx(loss.item(), rel=1e-12)
        for number, expected in enumerate(torch.autograd.grad(loss, inputs[:3])):
            pieces = [torch.as_tensor(each[number]) for each in found]
            ours = torch.stack(pieces).sum(0) if pieces[0].ndim == 0 else torch.cat(pieces)
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.processes
def test_sums_see_through_to_other_processes(parts):
    share, total, gradient, sizes = sums_on(0, 1)
    assert sizes == [6]
    sums = [part[1] for part in parts]
    assert all(part[3] == [6 // len(parts)] * len(parts) for part in sums)
    assert sum(part[0] for part in sums) == pytest.approx(share)
    assert [part[1] for part in sums] == [pytest.approx(total)] * len(parts)
    assert [number for part in sums for number in part[2]] == pytest.approx(gradient)
