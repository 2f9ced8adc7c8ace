"""Several widths of the same embeddings in one walk of the kernels, in Triton's interpreter."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from tests.pairs.dense import COLUMNS, REQUESTS, ROWS, blocks_of, cut_blocks, dense_stat, leaves, mix
from tests.pairs.test_processes import SIZE, local_blocks, weighted
from tests.pairs.test_triton import FUSED, exact_copy, interpret, on_device, start
from tests.pairs.test_walk import gradients
from tests.processes import run_processes
from vlp.pairs import HIST, LSE, MAP, SOFTPLUS, TOPK, WMEAN, pair_stats
from vlp.pairs.engine import fused, split_products, walk
from vlp.pairs.engine.fused_plan import PlanLevel, plan_levels
from vlp.pairs.engine.fused_sums import FusedSums

DIM = 40  # the interpreter's kernels read 16 coordinates at a time
WIDTHS = {
    "dividing": (16, 32, DIM),
    "dividing none": (3, 17, 33, DIM),
    "next to each other": (16, 17, DIM),
    "without the whole": (7, 20),
    "one": (9,),
    "the whole alone": (DIM,),
}
ASKED = FUSED | {
    "three": {"image_text": [ROWS, COLUMNS, MAP(SOFTPLUS, "pair")], "text_text": [LSE("row", mask="pair")]},
    "twins": REQUESTS["twins"],
}
TWINS = torch.tensor([3, 1, 3, 2, 5, 5, 9, 8, 3, 0, 4, 6, 7])


@pytest.fixture(scope="module")
def interpreter():
    with start(interpret) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


def several(requests, widths):
    return {f"{name}@{width}": asked for name, asked in requests.items() for width in widths}


def split(is_on=True):
    """Let derivatives and features come in two parts, as on CUDA."""
    stack = ExitStack()
    for module in (fused, split_products) if is_on else ():
        stack.enter_context(patch.object(module, "is_split", lambda matrix, numerics: True))
    return stack


def panels(size):
    return patch.object(fused, "PANEL_SIZE", {"row": size, "column": size})


def walks_of(stats):
    return {values.grad_fn for values in stats.values() if values.requires_grad}


def dense_stats(blocks, requests):
    return {(name, request): dense_stat(blocks[name], request) for name, asked in requests.items() for request in asked}


def fused_stats(inputs, requests, widths, device="cpu", ids=None):
    stats = pair_stats(cut_blocks(on_device(blocks_of(*inputs, ids), device), widths), requests, backend="triton")
    assert all(isinstance(each.path, fused.FusedWalk) for each in walks_of(stats))
    return stats


def assert_equal(ours, inputs, requests, widths, ids=None, digits=5e-6):
    """Compare with whole matrices in float64; inverse norms of few coordinates enlarge what float32 rounds."""
    exact = exact_copy(inputs)
    dense = dense_stats(cut_blocks(blocks_of(*exact, ids), widths), requests)
    in_order = {key: ours[key].cpu() for key in dense}
    for key, values in dense.items():
        torch.testing.assert_close(in_order[key].to(values.dtype), values, rtol=2 * digits, atol=2 * digits)
    for gradient, wanted in zip(gradients(mix(in_order), inputs), gradients(mix(dense), exact), strict=True):
        largest = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(gradient.double(), wanted, rtol=2 * digits, atol=2 * digits * largest)


def compare(name, size, widths, panel_size, is_split, ids=None, device="cpu"):
    asked = ASKED[name]
    inputs, requests = leaves(size, DIM, dtype=torch.float32), several(asked, widths)
    with panels(panel_size), split(is_split):
        ours = fused_stats(inputs, requests, widths, device, ids)
        assert len(walks_of(ours)) == len(asked)
        assert_equal(ours, inputs, requests, widths, ids)


def compare_with_tiles(widths):
    """The walk of the CPU in the same number format; both add up in orders of their own."""
    inputs = leaves(21, DIM, dtype=torch.float32)
    requests = several({"image_text": [ROWS, COLUMNS, MAP(SOFTPLUS)], "image_image": [LSE("row", mask="pair")]}, widths)
    tiled = pair_stats(
        cut_blocks(blocks_of(*inputs), widths), requests, backend="tiles", tile_size=8, kept_bytes=0, memory=None
    )
    ours = fused_stats(inputs, requests, widths)
    assert len(walks_of(tiled)) == len(walks_of(ours)) == 2
    for key, values in tiled.items():
        torch.testing.assert_close(ours[key], values, rtol=1e-5, atol=1e-5)
    in_order = {key: ours[key] for key in tiled}
    for ours_, theirs in zip(gradients(mix(in_order), inputs), gradients(mix(tiled), inputs), strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


def compare_half(dtype):
    """Coordinates are read as they are, and norms taken in float32: what narrow ones lose, halves cost everybody."""
    widths = (16, 24, DIM)
    inputs = leaves(40, DIM, dtype=dtype)
    requests = several({"image_text": [ROWS, COLUMNS, MAP(SOFTPLUS)]}, widths)
    ours = fused_stats(inputs, requests, widths)
    exact = exact_copy(inputs)
    dense = dense_stats(cut_blocks(blocks_of(*exact), widths), requests)
    for key, values in dense.items():
        assert ours[key].dtype == torch.float32
        torch.testing.assert_close(ours[key].double(), values, rtol=1e-5, atol=1e-5)
    in_order = {key: ours[key] for key in dense}
    for gradient, wanted in zip(gradients(mix(in_order), inputs), gradients(mix(dense), exact), strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), wanted, rtol=2e-2, atol=2e-2 * wanted.abs().max().item())


def compare_subset(wanted):
    widths = (5, 24, DIM)
    inputs = leaves(9, DIM, dtype=torch.float32)
    for k, leaf in enumerate(inputs):
        leaf.requires_grad_(k in wanted)
    chosen, requests = [inputs[k] for k in wanted], several({"image_text": FUSED["all"]["image_text"]}, widths)
    ours = fused_stats(inputs, requests, widths)
    dense = dense_stats(cut_blocks(blocks_of(*inputs), widths), requests)
    in_order = {key: ours[key] for key in dense}
    for found, theirs in zip(gradients(mix(in_order), chosen), gradients(mix(dense), chosen), strict=True):
        torch.testing.assert_close(found, theirs, rtol=2e-5, atol=2e-5 * max(1.0, theirs.abs().max().item()))


def compare_different_requests():
    """Scales need not be the same, and a width without a kernel for one request has its tiles beside."""
    widths = (5, 16, DIM)
    inputs = leaves(13, DIM, dtype=torch.float32)
    requests = {
        "image_text@5": [LSE("row", fixed_scale=4.0), LSE("column", factor=0.5)],
        "image_text@16": [ROWS, MAP(SOFTPLUS), TOPK("row", 2)],
        "image_text@40": [WMEAN("column"), HIST(7), LSE("row", individual=True)],
    }
    with patch.object(fused, "_runs_on", lambda device: True):
        ours = pair_stats(cut_blocks(blocks_of(*inputs), widths), requests)
    paths = [each.path for each in walks_of(ours)]
    (together,) = [path for path in paths if isinstance(path, fused.FusedWalk)]
    assert [level.width for level in together._levels] == list(widths)
    known = {name: [each for each in asked if (name, each) in ours] for name, asked in requests.items()}
    assert_equal(ours, inputs, known, widths, digits=1e-5)


def compare_zeros():
    inputs = leaves(7, DIM, dtype=torch.float32)
    with torch.no_grad():
        inputs[0][1, :17] = 0
    widths = (3, 17, DIM)
    ours = fused_stats(inputs, several({"image_text": [ROWS, COLUMNS]}, widths), widths)
    assert all(bool(values.isfinite().all()) for values in [*ours.values(), *gradients(mix(ours), inputs)])


def compare_parts():
    """Their sum says nothing of where they are cut."""
    inputs, widths, panels_found = leaves(21, DIM, dtype=torch.float32), (5, 24, DIM), []
    add = FusedSums.add

    def seen(sums, places, found):
        panels_found.append(found)
        add(sums, places, found)

    with split(), patch.object(FusedSums, "add", seen):
        mix(fused_stats(inputs, several({"image_text": [ROWS, COLUMNS]}, widths), widths)).backward()
    (found,) = panels_found
    assert len(found.of_products) == len(widths)
    for upper, rest in found.of_products:
        assert bool(rest.any())
        assert torch.equal(upper, split_products.leading(upper + rest))


def compare_twice():
    inputs, widths = leaves(13, DIM, dtype=torch.float32), (5, DIM)
    loss = mix(fused_stats(inputs, several({"image_text": [ROWS, COLUMNS]}, widths), widths))
    first, second = (torch.autograd.grad(loss, inputs[:3], retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "in parts"])
def test_widths_equal_dense(interpreter, widths, is_split):
    interpreter(compare, "three", 33, widths, 4096, is_split)


@pytest.mark.parametrize("name", FUSED)
def test_every_request_equals_dense(interpreter, name):
    interpreter(compare, name, 13, WIDTHS["dividing none"], 4096, True)


@pytest.mark.parametrize("name", ["all", "rectangular", "within"])
def test_panels_add_up(interpreter, name):
    interpreter(compare, name, 33, (5, 24, DIM), 16, True)


@pytest.mark.parametrize("size", [1, 2])
def test_the_smallest_batches_equal_dense(interpreter, size):
    interpreter(compare, "both", size, (5, 24, DIM), 4096, True)


def test_twins_are_hidden_at_every_width(interpreter):
    interpreter(compare, "twins", 13, (5, 24, DIM), 8, False, TWINS)


@pytest.mark.parametrize("name", ["dividing", "dividing none"])
def test_kernels_agree_with_tiles(interpreter, name):
    interpreter(compare_with_tiles, WIDTHS[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_accumulate_in_float32(interpreter, dtype):
    interpreter(compare_half, dtype)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 2), (2, 3)])
def test_any_subset_of_gradients(interpreter, wanted):
    interpreter(compare_subset, wanted)


def test_widths_may_ask_for_different_things(interpreter):
    interpreter(compare_different_requests)


def test_rows_whose_first_coordinates_are_zero_are_finite(interpreter):
    interpreter(compare_zeros)


def test_derivatives_come_in_the_parts_that_units_read(interpreter):
    interpreter(compare_parts)


def test_going_back_twice_gives_the_same(interpreter):
    interpreter(compare_twice)


def widths_on(rank, world_size):
    interpret()
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    answers = {}
    for name in ("all", "rectangular"):
        image, text, scale, bias = leaves(SIZE, DIM, dtype=torch.float32)
        local = [leaf.detach().requires_grad_() for leaf in (image[rows], text[rows], scale, bias)]
        with patch("tests.pairs.test_processes.leaves", lambda size: leaves(size, DIM)), split():
            blocks = cut_blocks(local_blocks(*local), (5, 24, DIM))
            stats = pair_stats(blocks, several(FUSED[name], (5, 24, DIM)), backend="triton")
            loss = weighted(stats, rows)
            found = gradients(loss, local)
        answers[name] = [len(walks_of(stats)), loss.item(), *(gradient.numpy() for gradient in found)]
    return answers


@pytest.mark.processes
def test_processes_walk_several_widths_at_once_and_add_up_to_one():
    parts = run_processes(widths_on, 2, fresh=True)
    for name in parts[0]:
        inputs, requests = leaves(SIZE, DIM), several(FUSED[name], (5, 24, DIM))
        loss = mix(dense_stats(cut_blocks(blocks_of(*inputs), (5, 24, DIM)), requests))
        walks, losses, images, texts, scales, biases = zip(*(part[name] for part in parts), strict=True)
        assert set(walks) == {len(FUSED[name])}
        assert sum(losses) == pytest.approx(loss.item(), rel=1e-5)
        together = [torch.cat([torch.as_tensor(p) for p in pieces]) for pieces in (images, texts)]
        together += [torch.as_tensor(sum(scales)), torch.as_tensor(sum(biases))]
        for ours, theirs in zip(together, gradients(loss, inputs), strict=True):
            largest = max(1.0, theirs.abs().max().item())
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5 * largest, msg=name)


def test_levels_have_their_places():
    assert plan_levels((16, 20, 40), (True, True, False), (2, 1, 3)) == (
        PlanLevel(0, 16, 0, 0, 2),
        PlanLevel(16, 20, 1, 2, 3),
        PlanLevel(20, 40, -1, 3, 6),
    )


def asked_of(blocks, *, is_fused):
    settings = {"tile_size": 4, "kept_bytes": 0, "memory": walk.TileMemory(), "is_fused": is_fused, "numerics": "exact"}
    return [walk.Asked(name, block, walk.matrix_of(block, [ROWS], None, **settings)) for name, block in blocks.items()]


def test_widths_whose_samples_have_other_numbers_are_walked_apart():
    """Kernels read labels, ids, scales and references once for all widths."""
    whole = blocks_of(*leaves(5, DIM, dtype=torch.float32))["image_text"]
    same = cut_blocks({"image_text": whole}, (5, DIM))
    assert [len(each) for each in walk.walked_together(asked_of(same, is_fused=True))] == [2]
    narrow = same["image_text@5"]
    for other in (
        {"labels": torch.zeros(5, dtype=torch.int64)},
        {"ids": torch.arange(5)},
        {"scales": torch.ones(5)},
        {"references": {"reference": torch.ones(5, 2)}},
    ):
        changed = same | {"image_text@5": replace(narrow, rows=replace(narrow.rows, **other))}
        assert [len(each) for each in walk.walked_together(asked_of(changed, is_fused=True))] == [1, 1]
        assert [len(each) for each in walk.walked_together(asked_of(changed, is_fused=False))] == [2]
