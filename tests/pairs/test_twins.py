"""Two rows of one sample are no negatives of each other, in every request, on tiles and in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.pairs.dense import REQUESTS, blocks_of, dense_stat, hidden_by, leaves, mix
from tests.pairs.test_processes import SIZE, local_blocks, weighted
from tests.pairs.test_triton import FUSED, interpreter
from tests.pairs.test_walk import gradients
from tests.processes import run_processes
from vlp.ground.types import Embeddings
from vlp.pairs import Pairs, pair_stats

__all__ = ["interpreter"]  # a fixture

IDS = {
    "a_few": torch.tensor([5, 1, 2, 5, 4, 1, 6, 5, 8, 9, 10, 11]),
    "all": torch.full((SIZE,), 7),
    "none": 3 * torch.arange(SIZE),
}
each_request = pytest.mark.parametrize("name", REQUESTS)
each_ids = pytest.mark.parametrize("ids", IDS)


def dense(inputs, requests, ids):
    blocks = blocks_of(*inputs, ids)
    return {(name, request): dense_stat(blocks[name], request) for name, asked in requests.items() for request in asked}


def assert_alike(stats, expected, inputs, tolerance=1e-9):
    for key, answer in expected.items():
        torch.testing.assert_close(stats[key].to(answer.dtype), answer, rtol=tolerance, atol=tolerance)
    ours, theirs = gradients(mix(stats), inputs), gradients(mix(expected), inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert bool(one.isfinite().all())
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)


@each_request
@each_ids
@pytest.mark.parametrize("tile_size", [5, 64])
@pytest.mark.parametrize("kept_bytes", [0, 2**20])
def test_tiles_equal_whole_matrices(name, ids, tile_size, kept_bytes):
    inputs = leaves(SIZE)
    stats = pair_stats(blocks_of(*inputs, IDS[ids]), REQUESTS[name], tile_size=tile_size, kept_bytes=kept_bytes)
    assert_alike(stats, dense(inputs, REQUESTS[name], IDS[ids]), inputs)


@pytest.mark.parametrize("mask", ["twin", "pair", "label"])
def test_every_mask_leaves_twins_out(mask):
    """Given numbers: samples 0 and 2 are one, and the labels of 1 and 3 are equal."""
    ids, labels = torch.tensor([7, 8, 7, 9]), torch.tensor([0, 1, 2, 1])
    block = blocks_of(*leaves(4), ids)["image_text"]
    sides = (replace(side, labels=labels) for side in (block.rows, block.columns))
    hidden = hidden_by(replace(block, **dict(zip(("rows", "columns"), sides, strict=True))), mask)
    found = {(i, j) for i in range(4) for j in range(4) if hidden[i, j]}
    own = {(i, i) for i in range(4)}
    assert found == {"twin": set(), "pair": own, "label": own | {(1, 3), (3, 1)}}[mask] | {(0, 2), (2, 0)}


def test_ids_that_differ_change_no_bit():
    for requests in REQUESTS.values():
        with_ids, without = (pair_stats(blocks_of(*leaves(SIZE), ids), requests) for ids in (IDS["none"], None))
        assert all(torch.equal(with_ids[key], without[key]) for key in without)


def fused_numbers(name, ids):
    inputs = leaves(SIZE, dtype=torch.float32)
    stats = pair_stats(blocks_of(*inputs, ids), FUSED[name], backend="triton")
    return [answer.detach() for answer in stats.values()], gradients(mix(stats).float(), inputs)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("ids", ["a_few", "all"])
def test_triton_equals_whole_matrices(interpreter, name, ids):
    stats, ours = interpreter(fused_numbers, name, IDS[ids])
    inputs = leaves(SIZE)
    expected = dense(inputs, FUSED[name], IDS[ids])
    for answer, wanted in zip(stats, expected.values(), strict=True):
        torch.testing.assert_close(answer.double(), wanted, rtol=1e-4, atol=1e-4)
    for one, other in zip(ours, gradients(mix(expected), inputs), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-3)


def engine_on(rank, world_size):
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    answers = {}
    for name, requests in REQUESTS.items():
        image, text, scale, bias = leaves(SIZE)
        local = [leaf.detach().requires_grad_() for leaf in (image[rows], text[rows], scale, bias)]
        loss = weighted(pair_stats(local_blocks(*local, IDS["a_few"]), requests, tile_size=3), rows)
        answers[name] = [loss.item(), *(gradient.numpy() for gradient in gradients(loss, local))]
    return answers, numbers_of(rows)


def numbers_of(rows):
    """Return what `Pairs` says of some rows about copies and negatives, and the gradient through sums of copies."""
    image, text, scale, bias = leaves(SIZE)
    local = image.detach()[rows].requires_grad_()
    pairs = Pairs(Embeddings(local, text.detach()[rows], scale, bias), IDS["a_few"][rows], torch.arange(SIZE)[rows])
    sums = pairs.sum_of_copies(local)
    (gradient,) = torch.autograd.grad((sums * text.detach()[rows]).sum(), local)
    counts = pairs.num_negatives.tolist(), pairs.num_combinations.item(), pairs.has_twins
    return *counts, sums.detach().numpy(), gradient.numpy()


@pytest.fixture(scope="module", params=[2, 3])
def parts(request):
    return run_processes(engine_on, request.param)


@pytest.mark.processes
def test_processes_add_up_to_one(parts):
    """The twins of the batch lie on different processes."""
    for name, requests in REQUESTS.items():
        inputs = leaves(SIZE)
        loss = mix(pair_stats(blocks_of(*inputs, IDS["a_few"]), requests, tile_size=5))
        losses, images, texts, scales, biases = zip(*(part[name] for part, _ in parts), strict=True)
        assert sum(losses) == pytest.approx(loss.item(), rel=1e-12)
        together = [torch.cat([torch.as_tensor(p) for p in pieces]) for pieces in (images, texts)]
        together += [torch.as_tensor(sum(scales)), torch.as_tensor(sum(biases))]
        for ours, theirs in zip(together, gradients(loss, inputs), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.processes
def test_counts_and_sums_of_copies_see_the_whole_batch(parts):
    negatives, combinations, has_twins, sums, gradient = numbers_of(slice(None))
    ids = IDS["a_few"].tolist()
    assert negatives == [SIZE - ids.count(number) for number in ids]
    assert combinations == sum(negatives)
    assert has_twins
    image = leaves(SIZE)[0].detach()
    for i, number in enumerate(ids):
        by_hand = sum(image[j] for j in range(SIZE) if ids[j] == number)
        torch.testing.assert_close(torch.as_tensor(sums[i]), by_hand)
    found = [numbers for _, numbers in parts]
    assert [n for part in found for n in part[0]] == negatives
    assert all(part[1:3] == (combinations, True) for part in found)
    for place, expected in ((3, sums), (4, gradient)):
        pieces = torch.cat([torch.as_tensor(part[place]) for part in found])
        torch.testing.assert_close(pieces, torch.as_tensor(expected))


def pairs_of(ids, **more):
    image, text, scale, bias = (leaf.detach() for leaf in leaves(len(ids)))
    return Pairs(Embeddings(image, text, scale, bias), ids, ids, **more)


def test_twins_are_noticed_where_that_is_free():
    assert pairs_of(torch.tensor([3, 1, 3])).has_twins
    assert not pairs_of(torch.tensor([3, 1, 2])).has_twins
    assert not pairs_of(torch.tensor([3, 1, 3]), has_twins=False).has_twins
    assert pairs_of(torch.tensor([3, 1, 2], device="meta")).has_twins
