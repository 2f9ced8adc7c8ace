"""Phase E: time and memory of the losses, forward and backward, beside open_clip's in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.gpu.timing import H100, MILLI, forget_peak, median, peak_gb, seconds_of, wait
from benchmarks.objective_cases import BIAS, DIM, SCALE, make_step, unit
from benchmarks.objective_cases import Case as Loss
from vlp.pairs import LSE, Block, Numerics, Side, pair_stats
from vlp.pairs.engine import walk

TOY = 256  # of which a size is that of a toy
SMALLEST = 64  # rows of the toy of one process among many
REPEATS, TOY_REPEATS = 5, 2
LARGE_SECONDS = 0.3  # from which fewer repeats suffice
PRODUCTS = 4  # of 2 x pairs^2 x DIM operations: logits twice, and two gradients
SPLIT = 3  # products of halves that together have float32's digits
FUSED, PEER = ("clip", "siglip"), "open_clip."
OTHERS = ("uniformity", "cwcl", "cacr", "false_negatives", "hard")
TIMES_CLIP = 2  # what a term may take that asks for more than log-sum-exps
WIDTHS = "widths"  # of `objective_cases`: clip at 64, 128, 256 and all 512 coordinates
AT_WIDTHS = (16_384, 65_536)
TIMES_ONE = 2.0
"""What four widths may take of one. memeff's kernels take 981 ms for four where 507 for one: 65,536 pairs of 384
coordinates, forward and back, on an A100, by its authors."""
EXPECTED_TIMES_ONE = 1.8
"""At 65,536 pairs, of which one width takes 140 ms, each of three others adds 23 ms for 16 bytes an entry that are
written and read, 5 for four exponentials, and 8 for other instructions."""
ROWS, COLUMNS = 16_384, 1_048_576
ALSO_FAST = (16_384, 32_768)
ACCURATE = 2_048  # pairs whose loss in float64 is dense
LARGEST_ERROR: dict[Numerics, float] = {"exact": 2e-5, "fast": 5e-3}  # of gradients, relative


@dataclass(frozen=True)
class Expected:
    """Milliseconds on an H100.

    Args:
        good: Which would be good; `now` with products of float32 units.
        floor: What the products alone take at best.
    """

    now: float
    good: float
    floor: float


OURS = {
    8_192: Expected(10, 3.5, 1.0),
    16_384: Expected(38, 10, 4.1),
    32_768: Expected(154, 35, 16.5),
    65_536: Expected(616, 140, 66),
}
THEIRS = {8_192: 2.7, 16_384: 11.0, 32_768: 43.0}
TOO_LARGE = 65_536
EXTRA_GB = 0.5


def cases(setting: Setting) -> Iterator[Case]:
    """Yield ours and open_clip's by size, then what one of 64 processes would do, then other terms."""
    for pairs, limits in OURS.items():
        for name in FUSED:
            words = f"{limits.now:g} ms with float32 units, {limits.good:g} with matrix units; < {EXTRA_GB} GB"
            yield Case(f"{name} {pairs:,}", lambda name=name, pairs=pairs: ours(setting, name, pairs), words)
            if pairs in ALSO_FAST:
                words = f"less than exact; {limits.floor / SPLIT:.1f} ms at best"
                yield Case(
                    f"{name} {pairs:,}, fast", lambda name=name, pairs=pairs: ours(setting, name, pairs, "fast"), words
                )
        for name in ("ClipLoss", "SigLipLoss"):
            known = THEIRS.get(pairs)
            yield Case(
                f"{PEER}{name} {pairs:,}",
                lambda name=name, pairs=pairs: theirs(setting, PEER + name, pairs),
                f"{known:g} ms in bfloat16" if known else "out of memory",
            )
    yield Case(
        f"clip, one of 64 processes: {ROWS:,} x {COLUMNS:,}",
        lambda: one_of_many(setting),
        "2.5 s",
        seconds=40,
        alone=True,
    )
    for numerics, largest in LARGEST_ERROR.items():
        words = f"at most {largest:.0e}"
        yield Case(f"error of gradients, {numerics}", lambda numerics=numerics: error(setting, numerics), words)
    for name in OTHERS:
        words = f"{TIMES_CLIP * OURS[ROWS].good:g} ms, {TIMES_CLIP} times what would be good for clip"
        yield Case(f"{name} {ROWS:,}", lambda name=name: other(setting, name, ROWS), words)
    for pairs in AT_WIDTHS:
        limits = OURS[pairs]
        words = f"{EXPECTED_TIMES_ONE * limits.good:g} ms, < {TIMES_ONE:g} x one width; {limits.floor:g} at best"
        yield Case(f"clip at four widths {pairs:,}", lambda pairs=pairs: at_widths(setting, pairs), words, seconds=40)


def error(setting: Setting, numerics: Numerics) -> Finding:
    """Compare gradients of images with those of the dense loss in float64."""
    pairs = TOY if setting.is_toy else ACCURATE
    step, leaves = make_step(Loss("clip", pairs, device=setting.device, numerics=numerics), 0)
    step()
    image, text, scale, _ = (leaf.detach().double() for leaf in leaves)
    image.requires_grad_()
    logits, own = scale * image @ text.t(), torch.arange(pairs, device=setting.device)
    (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.t(), own)).div(2).backward()
    assert image.grad is not None and leaves[0].grad is not None
    relative = float((leaves[0].grad.double() - image.grad).norm() / image.grad.norm())
    largest = LARGEST_ERROR[numerics]
    problems = (f"the error is {relative:.1e}, at most {largest:.0e} was expected",) if relative > largest else ()
    return Finding(f"{relative:.1e}", {"relative_error": relative}, problems=problems)


def ours(setting: Setting, name: str, pairs: int, numerics: Numerics = "exact") -> Finding:
    """Measure a term with float32 embeddings, as the trainer hands them over."""
    limits = OURS[pairs]
    loss = partial(Loss, name, device=setting.device, numerics=numerics)
    found = _measure(setting, lambda size: make_step(loss(size), 0), pairs)
    problems = []
    if setting.device == "cuda" and found.numbers["extra_gb"] > EXTRA_GB:
        problems.append(f"{found.numbers['extra_gb']:.2f} GB beyond inputs and gradients, {EXTRA_GB} are allowed")
    return _judged(setting, found, limits.floor, limits.good, tuple(problems))


def theirs(setting: Setting, name: str, pairs: int) -> Finding:
    """Measure open_clip's loss under autocast; running out of memory is an answer."""
    dtype = "float32" if setting.is_toy else "bfloat16"

    def make(size: int) -> tuple[Callable[[], object], list[Tensor]]:
        step, leaves = make_step(Loss(name, size, device=setting.device, dtype=dtype), 0)

        def under_autocast() -> None:
            with torch.autocast(setting.device, torch.bfloat16, enabled=not setting.is_toy):
                step()

        return under_autocast, leaves

    try:
        found = _measure(setting, make, pairs)
    except torch.OutOfMemoryError:
        return Finding("out of memory", {"seconds": None}, missed=pairs in THEIRS)
    floor = 3 / PRODUCTS / SPLIT * OURS[pairs].floor  # three products of halves
    return _judged(setting, found, floor, None)


def one_of_many(setting: Setting) -> Finding:
    """Measure what a process does that has its rows and everyone's columns."""
    rows, columns = (max(SMALLEST, size // TOY // SMALLEST) if setting.is_toy else size for size in (ROWS, COLUMNS))

    def make(_: int) -> tuple[Callable[[], object], list[Tensor]]:
        image, text = (unit(size, k, setting.device).requires_grad_() for k, size in enumerate((rows, columns)))
        scale, bias = (torch.tensor(number, device=setting.device).requires_grad_() for number in (SCALE, BIAS))
        block = Block(Side(image, image.detach), Side(text, text.detach), scale, bias)
        requests = {"image_text": [LSE("row"), LSE("column")]}

        def step() -> None:
            stats = pair_stats({"image_text": block}, requests)
            torch.stack([answers.mean() for answers in stats.values()]).sum().backward()

        return step, [image, text, scale, bias]

    found = _measure(setting, make, ROWS)
    floor = PRODUCTS * SPLIT * 2 * ROWS * COLUMNS * DIM / H100.bfloat16 / MILLI
    return _judged(setting, found, floor, 2_500)


def other(setting: Setting, name: str, pairs: int) -> Finding:
    """Measure a term that asks for weights, means or matrices within a side."""
    found = _measure(setting, lambda size: make_step(Loss(name, size, device=setting.device), 0), pairs)
    return _judged(setting, found, OURS[pairs].floor, TIMES_CLIP * OURS[pairs].good)


def at_widths(setting: Setting, pairs: int) -> Finding:
    """Measure a term at four widths in one walk, and beside it in a walk of each."""

    def measure() -> Finding:
        return _measure(setting, lambda size: make_step(Loss(WIDTHS, size, device=setting.device), 0), pairs)

    found = measure()
    with patch.object(walk, "walked_together", lambda asked: [[question] for question in asked]):
        apart = measure().numbers["seconds"]
    limits, seconds = OURS[pairs], median(found.numbers["seconds"])
    one = setting.earlier("E", f"{FUSED[0]} {pairs:,}").get("seconds")
    shown = f"{found.shown}, {median(apart) / MILLI:,.2f} ms in four walks"
    shown += f", {seconds / median(one):.2f} times one width" if one else ""
    whole = Finding(shown, {**found.numbers, "apart_seconds": apart, "one_seconds": one})
    return _judged(setting, whole, limits.floor, TIMES_ONE * (median(one) / MILLI if one else limits.good))


def _measure(setting: Setting, make: Callable[[int], tuple[Callable[[], object], list[Tensor]]], pairs: int) -> Finding:
    device = setting.device
    if device == "cuda":
        torch.cuda.empty_cache()
    step, leaves = make(pairs // TOY if setting.is_toy else pairs)

    def whole() -> None:
        for leaf in leaves:
            leaf.grad = None
        step()

    started = time.perf_counter()
    whole()  # compiles
    wait(device)
    first = time.perf_counter() - started
    for leaf in leaves:
        leaf.grad = None
    before = torch.cuda.memory_allocated() / 1e9 if device == "cuda" else 0.0
    forget_peak(device)
    once = seconds_of(whole, device=device, repeats=1, warm_up=0)
    repeats = TOY_REPEATS if setting.is_toy or once[0] > LARGE_SECONDS else REPEATS
    seconds = seconds_of(whole, device=device, repeats=repeats, warm_up=0)
    gradients = sum(leaf.grad.nbytes for leaf in leaves if leaf.grad is not None) / 1e9
    extra = max(0.0, peak_gb(device) - before - gradients) if device == "cuda" else 0.0
    numbers = {"seconds": seconds, "first_seconds": first, "extra_gb": extra, "pairs": len(leaves[0])}
    shown = f"{median(seconds) / MILLI:,.2f} ms" + (f", {extra:.2f} GB" if device == "cuda" else "")
    shown += f" at {len(leaves[0])} pairs" if setting.is_toy else ""
    if first > 2 * median(seconds) + 0.1:
        shown += f", the first {first:.1f} s"
    return Finding(shown, numbers)


def _judged(
    setting: Setting, found: Finding, floor: float, good: float | None, problems: tuple[str, ...] = ()
) -> Finding:
    """Set a time against the milliseconds of the products alone, and against those that would be good."""
    if setting.is_toy:
        return found
    took = median(found.numbers["seconds"]) / MILLI
    numbers: dict[str, Any] = {**found.numbers, "floor_seconds": floor * MILLI}
    missed = good is not None and took > good
    return Finding(found.shown, numbers, share=floor / took, problems=problems, missed=missed)
