"""Phase H, if time is left: other tiles of the kernels, compiled towers, saves, and products of eight bits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from unittest.mock import patch

import torch

from benchmarks.gpu import saves, throughput
from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.gpu.timing import H100, MILLI, median, seconds_of
from benchmarks.objective_cases import Case as Loss
from benchmarks.objective_cases import make_step
from vlp.pairs.engine import fused, walk
from vlp.pairs.kernel_blocks import Blocks

PAIRS, TOY_PAIRS = 16_384, 48
SHAPES = ((64, 64, 32, 4), (128, 64, 32, 4), (128, 64, 32, 8), (128, 128, 32, 8), (64, 128, 64, 8), (128, 128, 16, 8))
"""Rows, columns and depth of a tile, and warps; the first is the one in use."""
SIDE = 8192
COMPILED = (
    throughput.Job("ViT-L-14", 128, {throughput.VLP: (120, 155)}, compiled="true"),
    throughput.Job("ViT-B-32", 1024, {throughput.VLP: (80, 115)}, compiled="towers"),
)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield what helps to choose constants, the most useful first."""
    cuda = "" if setting.device == "cuda" else "CUDA"
    for shape in SHAPES if not setting.is_toy else SHAPES[:2]:
        name = f"clip {PAIRS:,}, tile {'x'.join(map(str, shape[:3]))}, {shape[3]} warps"
        yield Case(name, lambda shape=shape: tile(setting, shape), alone=setting.is_toy, seconds=40)
    lacking = "" if any(map(shutil.which, throughput.COMPILERS)) else "a C compiler"
    for job in COMPILED:
        yield Case(
            f"vlp {job}",
            lambda job=job: throughput.measure(setting, throughput.VLP, job),
            "faster than phase C's",
            seconds=90,
            alone=True,
            needs=cuda or lacking,
        )
    yield Case(
        f"save of {saves.TOWERS} in the background",
        lambda: saves.in_the_background(setting),
        f"under {saves.MOST_SECONDS:.0f} s",
        seconds=60,
        alone=True,
    )
    yield Case("matmul 8192 float8", eight_bits, "1,300 TFLOP/s", needs=cuda, alone=True)


def tile(setting: Setting, shape: tuple[int, int, int, int]) -> Finding:
    """Time the fused loss with another shape; on the CPU in Triton's interpreter, with smaller tiles."""
    if setting.device == "cpu":
        replaced = patch.object(fused, "blocks_for", lambda _: Blocks(16, 16, 16, 1))
        chosen = patch.object(walk, "share_out", lambda _, block, requests: fused.share_out("triton", block, requests))
    else:
        replaced = patch.object(fused, "blocks_for", lambda _: Blocks(*shape))
        chosen = patch.object(walk, "share_out", fused.share_out)
    step, _ = make_step(Loss("clip", TOY_PAIRS if setting.is_toy else PAIRS, device=setting.device), 0)
    try:
        with replaced, chosen:
            seconds = seconds_of(step, device=setting.device, repeats=2 if setting.is_toy else 5, warm_up=1)
    except Exception as error:
        if shape == SHAPES[0] or setting.is_toy:
            raise
        return Finding(f"does not run: {type(error).__name__}", notes=(str(error)[:300],))
    return Finding(f"{median(seconds) / MILLI:,.1f} ms", {"seconds": seconds, "shape": shape})


def eight_bits() -> Finding:
    """Multiply two matrices of eight-bit floats with one scale each."""
    left, right = (torch.randn(SIDE, SIDE, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device="cuda")

    def product() -> torch.Tensor:
        return torch._scaled_mm(left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    rate = 2 * SIDE**3 / median(seconds_of(product, device="cuda", repeats=10))
    times = f"{rate / H100.bfloat16:.2f} x bfloat16"
    return Finding(f"{rate / 1e12:,.0f} TFLOP/s, {times}", {"flops": rate})
