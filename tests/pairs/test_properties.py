"""Whatever the batch: answers and gradients are finite, and those of whole matrices in float64."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as draw
from torch.nn import functional

from tests.pairs.dense import blocks_of, dense_stat, unit
from vlp.pairs import LSE, MAP, SOFTPLUS, WMEAN, pair_stats

REQUESTS = [
    LSE("row"),
    LSE("column"),
    LSE("row", mask="pair"),
    LSE("column", factor=0.5, mask="label"),
    LSE("row", fixed_scale=4.0, mask="pair"),
    LSE("row", individual=True),
    WMEAN("row", mask="pair"),
    MAP(SOFTPLUS),
]
ROUNDING = {torch.float64: 1e-13, torch.float32: 6e-8, torch.bfloat16: 6e-8, torch.float16: 6e-8}


@draw.composite
def batches(choose):
    """Draw unit-norm embeddings: random, converged, with duplicates, opposed, or mismatched pairs."""
    size, dim = choose(draw.integers(1, 20)), choose(draw.integers(1, 12))
    image = unit(size, dim, choose(draw.integers(0, 99)))
    noise = unit(size, dim, choose(draw.integers(100, 199)))
    closeness = choose(draw.sampled_from([-1.0, 0.0, 0.5, 0.999, 1.0]))
    text = functional.normalize(closeness * image + (1 - abs(closeness)) * noise, dim=1)
    copies = choose(draw.lists(draw.integers(0, size - 1), min_size=size, max_size=size))
    kind = choose(draw.sampled_from(["distinct", "duplicated", "mismatched"]))
    if kind == "duplicated":
        image, text = image[copies], text[copies]
    elif kind == "mismatched":
        text = text[copies]
    dtype = choose(draw.sampled_from(list(ROUNDING)))
    scale = choose(draw.floats(1.0, 200.0))
    bias = choose(draw.floats(-20.0, 5.0))
    return [leaf.to(dtype) for leaf in (image, text)] + [torch.tensor(number).to(dtype) for number in (scale, bias)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(leaves=batches(), tile_size=draw.integers(1, 9), kept=draw.booleans(), first=draw.integers(0, len(REQUESTS) - 1))
def test_answers_and_gradients_are_those_of_whole_matrices(leaves, tile_size, kept, first):
    inputs = [leaf.requires_grad_() for leaf in leaves]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    requests = REQUESTS[first : first + 4]
    stats = pair_stats(
        blocks_of(*inputs), {"image_text": requests}, tile_size=tile_size, kept_bytes=2**20 if kept else 0
    )
    block = blocks_of(*exact)["image_text"]
    wanted = {request: dense_stat(block, request) for request in requests}
    largest = 1.0 + 2 * float(exact[2].detach()) + abs(float(exact[3].detach()))
    rounding = ROUNDING[leaves[0].dtype] * largest
    for request, values in wanted.items():
        answers = stats["image_text", request]
        assert torch.equal(answers == -torch.inf, values == -torch.inf)
        torch.testing.assert_close(answers.double(), values, rtol=8 * rounding, atol=8 * rounding)
    ours = torch.autograd.grad(_total(stats["image_text", r] for r in requests), inputs, allow_unused=True)
    theirs = torch.autograd.grad(_total(wanted.values()), exact, allow_unused=True)
    half = 8e-3 if leaves[0].dtype in (torch.bfloat16, torch.float16) else 0.0  # gradients come in the inputs' type
    for mine, right in zip(ours, theirs, strict=True):
        if right is None:
            assert mine is None or not mine.any()
            continue
        assert bool(mine.isfinite().all())
        size = float(right.norm()) + 1e-3 * float(exact[2].detach()) * len(leaves[0])
        assert float((mine.double() - right).norm()) <= (half + 200 * rounding) * size


def _total(answers) -> torch.Tensor:
    return sum(values[values != -torch.inf].sum() for values in answers)
