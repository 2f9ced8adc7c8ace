"""Phase C: pairs per second of a training step on a synthetic batch, beside open_clip's own trainer in the same run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import launches
from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.gpu.peer_steps import PeerEpoch
from benchmarks.gpu.steps import TINY, synthetic_parts
from benchmarks.gpu.timing import H100, MILLI, forget_peak, median, peak_gb, wait
from vlp import train

WARM_UP, TIMED = 3, 12
FEWER = 3  # of both, where a step takes seconds
TOY_TIMED = 3
TOY_BATCH = 8
COMPILERS = ("cc", "gcc", "clang")
COMPILED = {"false": "", "true": " compiled", "towers": " compiled as wholes"}


@dataclass(frozen=True)
class Job:
    """What is trained.

    Args:
        towers: A name that open_clip knows.
        milliseconds: Between which a step is expected to take on an H100, by who trains.
        compiled: What `train.compile` says.
    """

    towers: str
    batch: int
    milliseconds: dict[str, tuple[float, float]]
    micro_batches: int = 1
    compiled: Literal["false", "true", "towers"] = "false"

    def __str__(self) -> str:
        pieces = f" x {self.micro_batches}" if self.micro_batches > 1 else ""
        return f"{self.towers} @{self.batch // self.micro_batches:,}{pieces}{COMPILED[self.compiled]}"

    @property
    def is_compiled(self) -> bool:
        """Whether anything is compiled, which needs a C compiler and a first step of its own."""
        return self.compiled != "false"


VLP, PEER = "vlp", "open_clip"
JOBS = (
    Job("ViT-B-32", 1024, {VLP: (100, 115), PEER: (140, 150)}),
    Job("ViT-B-16", 512, {VLP: (150, 165), PEER: (170, 185)}),
    Job("ViT-L-14", 128, {VLP: (155, 170), PEER: (165, 180)}),
    Job("ViT-B-32", 256, {VLP: (30, 40)}),
    Job("ViT-B-32", 1024, {VLP: (80, 115)}, compiled="true"),
    Job("ViT-B-32", 16_384, {VLP: (2_000, 2_400)}, micro_batches=4),
)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield each job, ours and open_clip's side by side."""
    version = metadata.version("open_clip_torch")
    for job in JOBS:
        for who, (low, high) in job.milliseconds.items():
            name = f"{who if who == VLP else f'{PEER} {version}'} {job}"
            lacking = job.is_compiled and not any(map(shutil.which, COMPILERS))
            yield Case(
                name,
                lambda who=who, job=job: measure(setting, who, job),
                f"{low:,.0f} to {high:,.0f} ms, {1e3 * job.batch / high:,.0f} to {1e3 * job.batch / low:,.0f} pairs/s",
                seconds=60 if job.is_compiled else 45,
                alone=True,
                needs="a C compiler" if lacking else "",
            )


def measure(setting: Setting, who: str, job: Job) -> Finding:
    """Time a job's steps, and look into one of them."""
    device = setting.device
    batch = max(TOY_BATCH, job.micro_batches * 2) if setting.is_toy else job.batch
    timed = TOY_TIMED if setting.is_toy else TIMED if job.micro_batches == 1 else FEWER
    look, run = (_ours if who == VLP else _theirs)(setting, job, batch)
    with torch.compiler.set_stance("force_eager" if job.is_compiled else "default"):
        flops = _flops(look)
    if job.is_compiled:
        look()  # compiles
    counted = launches.count(look, device) if job.micro_batches == 1 else {}
    wait(device)
    forget_peak(device)
    seconds, enqueued = run(timed)
    middle = median(seconds)
    floor = flops / _peak(setting)
    low, high = job.milliseconds[who]
    numbers = {
        "seconds": seconds,
        "enqueue_seconds": enqueued,
        "pairs": batch,
        "pairs_per_second": batch / middle,
        "flops": flops,
        "floor_seconds": floor,
        "peak_gb": peak_gb(device),
        **counted,
    }
    shown = f"{middle / MILLI:,.1f} ms, {batch / middle:,.0f} pairs/s, floor {floor / MILLI:,.1f} ms"
    shown += f", {counted['launches']:,} launches" if counted else ""
    shown += f", {median(enqueued) / MILLI:,.0f} ms to enqueue" if enqueued else ""
    shown += f", {peak_gb(device):.1f} GB" if device == "cuda" else ""
    missed = not setting.is_toy and middle > high * MILLI
    notes = (f"slower than the {low:,.0f} to {high:,.0f} ms that were expected",) if missed else ()
    return Finding(shown, numbers, share=floor / middle, missed=missed, notes=notes)


Run = Callable[[int], tuple[list[float], list[float]]]


def _ours(setting: Setting, job: Job, batch: int) -> tuple[Callable[[], object], Run]:
    """Return one step of the trainer, and how to time several: seconds of each, and of the host alone."""
    towers: Sequence[str] = TINY
    if not setting.is_toy:
        towers = [f"model.image.name={job.towers}", f"model.text.name={job.towers}"]
    settings = [
        *towers,
        f"train.precision={'float32' if setting.is_toy else 'bfloat16'}",
        f"train.micro_batches={job.micro_batches}",
        f"train.compile={job.compiled}",
    ]
    folder = setting.scratch / "throughput"
    label = str(job).replace(" ", "_").replace(",", "").replace("@", "")
    parts, data = synthetic_parts("vitb32_clip", folder, batch, setting.device, settings, label=label)
    step = iter(range(1_000_000))

    def one() -> None:
        train.one_step(parts, data, next(step))

    def run(count: int) -> tuple[list[float], list[float]]:
        for _ in range(min(WARM_UP, count - 1)):
            one()
        return _time_each(one, count, setting.device)

    return one, run


def _theirs(setting: Setting, job: Job, batch: int) -> tuple[Callable[[], object], Run]:
    """Return one step of open_clip's trainer, and how to time several: by its own loop over an epoch."""
    epoch = PeerEpoch(None if setting.is_toy else job.towers, batch, setting.device)

    def run(count: int) -> tuple[list[float], list[float]]:
        return epoch.seconds(WARM_UP, count), []

    return lambda: epoch.train(1), run


def _time_each(step: Callable[[], object], count: int, device: str) -> tuple[list[float], list[float]]:
    """Return seconds between steps, and seconds until the host has enqueued each of them."""
    if device == "cpu":
        enqueued = [_host_seconds(step) for _ in range(count)]
        return enqueued, enqueued
    wait(device)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    enqueued = []
    marks[0].record()
    for mark in marks[1:]:
        enqueued.append(_host_seconds(step))
        mark.record()
    wait(device)
    return [a.elapsed_time(b) * MILLI for a, b in pairwise(marks)], enqueued


def _host_seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _flops(step: Callable[[], object]) -> float:
    """Return the floating-point operations of a step's matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        step()
    total: Any = counter.get_total_flops()
    return float(total)


def _peak(setting: Setting) -> float:
    """Return what one product reached in phase A, in the type that this phase computes in."""
    dtype, usual = ("float32", 1e10) if setting.is_toy else ("bfloat16", H100.bfloat16)
    return float(setting.earlier("A", f"matmul 8192 {dtype}").get("flops", usual))
