"""`vlp bench loss`: which tiles of the kernels are fastest on this device, kept for every later run."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tqdm import tqdm

from vlp.ground.tabular import p10_to_p90
from vlp.ground.types import RecipeError
from vlp.pairs import LSE, Block, Side, pair_stats
from vlp.pairs.kernel_blocks import INTERPRETED, SINGLE, Blocks, blocks_for, key_of, remember_blocks, use_blocks

CANDIDATES = (
    SINGLE,
    *(Blocks(64, 64, 32, 4), Blocks(128, 64, 32, 4), Blocks(64, 128, 32, 8), Blocks(128, 128, 32, 8)),
    *(Blocks(128, 64, 16, 8), Blocks(128, 64, 64, 8), Blocks(64, 128, 64, 8), Blocks(128, 128, 16, 8)),
    Blocks(256, 64, 32, 8),
)
OF_INTERPRETER = (INTERPRETED, Blocks(32, 16, 16, 1))
WARM_UP, TIMED = 2, 7
MILLI = 1e-3


@dataclass(frozen=True)
class TimedBlocks:
    """Seconds of a forward and a backward pass with some tiles; none where they do not run, and why."""

    blocks: Blocks
    seconds: tuple[float, ...] = ()
    error: str = ""

    @property
    def median(self) -> float:
        """The middle one; infinite where there is none."""
        return statistics.median(self.seconds) if self.seconds else float("inf")


def run_bench_loss(parsed: argparse.Namespace) -> None:
    """Time, print and keep, or forget.

    Raises:
        RecipeError: There is no device for kernels, or a number is not positive.
    """
    if min(parsed.pairs, parsed.width) < 1:
        raise RecipeError(f"--pairs {parsed.pairs} and --width {parsed.width} must be positive")
    if not torch.cuda.is_available():
        raise RecipeError("bench loss: kernels run on a GPU, and none is here; on the CPU losses need no such choice")
    device = torch.device("cuda")
    if parsed.forget:
        print(forget(device))
        return
    found = time_kernels(pairs=parsed.pairs, width=parsed.width, device=device)
    print(
        f"{parsed.pairs:,} pairs of {parsed.width} coordinates, forward and backward, median and p10 .. p90 of {TIMED}"
    )
    print(table_of(found))
    print(keep_fastest(found, device))


def time_kernels(
    *, pairs: int, width: int, device: torch.device, candidates: Sequence[Blocks] | None = None
) -> list[TimedBlocks]:
    """Time the symmetric contrast of float32 embeddings with several tiles, the fastest first.

    Args:
        pairs: Of the batch.
        width: Coordinates of an embedding.
        device: A CUDA device; on the CPU Triton's interpreter runs, if it was asked for before anything else.
        candidates: Tiles; those that suit the device by default.
    """
    step = _step(pairs, width, device)
    chosen = candidates or (CANDIDATES if device.type == "cuda" else OF_INTERPRETER)
    found = [_time(blocks, step, device) for blocks in tqdm(chosen, desc="tiles", unit=" shapes", disable=None)]
    return sorted(found, key=lambda each: each.median)


def keep_fastest(found: Sequence[TimedBlocks], device: torch.device) -> str:
    """Let this machine use the fastest tiles from now on; return what to tell.

    Raises:
        RecipeError: None of them run.
        OSError: The cache cannot be written.
    """
    if not found or not found[0].seconds:
        raise RecipeError(f"no tiles run on {device}: {found[0].error if found else 'there are none to try'}")
    to = remember_blocks(key_of(device, torch.float32), found[0].blocks)
    return f"kept for this machine: {_words(found[0].blocks)} ({to}); --forget takes it back"


def forget(device: torch.device) -> str:
    """Return to the tiles that suit most devices; return what to tell."""
    remember_blocks(key_of(device, torch.float32), None)
    return f"tiles are {_words(blocks_for(torch.empty(0, device=device)))} again"


def table_of(found: Sequence[TimedBlocks]) -> str:
    """Return a line for each: tile, warps, median and p10 to p90 in milliseconds."""
    lines = []
    for each in found:
        if each.seconds:
            said = f"{each.median / MILLI:8.2f} ms   {p10_to_p90(each.seconds, MILLI, '.2f')}"
        else:
            said = f"does not run: {each.error}"
        lines.append(f"{_words(each.blocks):26} {said}")
    return "\n".join(lines)


def _words(blocks: Blocks) -> str:
    *sizes, warps = blocks
    return f"{' x '.join(map(str, sizes))}, {warps} warps"


def _step(pairs: int, width: int, device: torch.device) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    image, text = (
        F.normalize(torch.randn(pairs, width, generator=generator), dim=1).to(device).requires_grad_() for _ in range(2)
    )
    scale, bias = (torch.tensor(value, device=device) for value in (100.0, 0.0))
    block = Block(Side(image, image.detach), Side(text, text.detach), scale, bias)
    requests = {"image_text": (LSE("row"), LSE("column"))}

    def step() -> None:
        answers = pair_stats({"image_text": block}, requests, backend="triton").values()
        torch.stack([answer.sum() for answer in answers]).sum().backward()

    return step


def _time(blocks: Blocks, step: Callable[[], None], device: torch.device) -> TimedBlocks:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = []
    try:
        with use_blocks(blocks):
            for _ in range(WARM_UP + TIMED):
                wait()
                begun = time.perf_counter()
                step()
                wait()
                seconds.append(time.perf_counter() - begun)
    except Exception as error:  # of the compiler, and of a device that has too little of something
        return TimedBlocks(blocks, error=f"{type(error).__name__}: {str(error)[:120]}")
    return TimedBlocks(blocks, tuple(seconds[WARM_UP:]))
