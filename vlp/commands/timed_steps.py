"""Some steps of a recipe on this machine: pairs per second, share of the peak, waits, and where the time goes."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vlp import train
from vlp.ground.files import write_text
from vlp.ground.float32 import tf32, whole_float32
from vlp.ground.provenance import commit, machine
from vlp.ground.types import Batch
from vlp.plan.devices import Device, known_as
from vlp.recipe.compose import load_recipe
from vlp.recipe.schema import Recipe
from vlp.run.assemble import Run, assemble
from vlp.run.utilisation import fastest, product_rate, wait
from vlp.step.learning_rate import set_learning_rate

WARM_UP = 2
SIDES = {"cuda": 8192, "cpu": 512}  # of the matrices whose product says what the device can do
COPIED = {"cuda": 2**30, "cpu": 2**27}  # bytes
PARTS = ("data", "towers", "loss", "backward", "optimizer")


@dataclass(frozen=True)
class Bench:
    """What some steps of a recipe took.

    Args:
        seconds: Of each step, data included.
        waited: Of them, for data.
        parts: Median seconds by part, from further steps that waited for the device after each of them.
        operations: Of one step on one device, of matrix products and convolutions.
        device: What this machine's device can do, as measured.
        decode: Seconds of one decoding process for one sample; None where the stream does not know.
        peak_bytes: Memory that the allocator handed out at most; None on the CPU.
    """

    recipe: str
    batch_size: int
    seconds: Sequence[float]
    waited: Sequence[float]
    parts: dict[str, float]
    operations: float
    device: Device
    precision: str
    decode: float | None
    peak_bytes: int | None
    where: str = field(default_factory=lambda: f"{machine()}, {date.today()}, commit {commit()}")

    @property
    def step(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def pairs_per_second(self) -> float:
        """Pairs per second of the job."""
        return self.batch_size / self.step

    @property
    def wait(self) -> float:
        """Share of the time that went into waiting for data."""
        return sum(self.waited) / sum(self.seconds)

    @property
    def utilisation(self) -> float:
        """Model FLOP utilisation: share of the device's peak that a whole step reaches."""
        return self.operations / self.step / self.device.rate(self.precision)

    @property
    def share(self) -> float:
        """The same of the towers alone, without data, loss and optimizer."""
        seconds = self.parts["towers"] + self.parts["backward"]
        return self.operations / seconds / self.device.rate(self.precision)

    def save(self, path: Path) -> None:
        """Write what `vlp plan --calibration` reads.

        Raises:
            OSError: It cannot be written.
        """
        known = {"recipe": self.recipe, "where": self.where, "share": self.share, "decode": self.decode}
        known |= {"device": asdict(self.device), "pairs_per_second": self.pairs_per_second, "parts": self.parts}
        known |= {"utilisation": self.utilisation, "wait": self.wait, "seconds": list(self.seconds)}
        write_text(path, json.dumps(known, indent=1) + "\n")


def bench(name: str, overrides: Sequence[str] = (), *, steps: int = 10) -> Bench:
    """Train some steps of a recipe in a folder that is thrown away; one process.

    Args:
        steps: How many are timed; twice as many are taken, and a few before them.

    Raises:
        RecipeError: The recipe cannot be carried out.
    """
    with tempfile.TemporaryDirectory(prefix="vlp-bench-") as folder:
        recipe = _without_end(load_recipe(name, [*overrides, *_without_the_rest(folder)]))
        run = assemble(recipe, resume=False, allow_changes=False)
        return _measure(run, name, steps)


def _without_end(recipe: Recipe) -> Recipe:
    """Let stored views come again: so many steps have more epochs than anybody stores."""
    entries = {
        label: entry.model_copy(update={"cycle": True}) if entry.type == "stored_teacher" else entry
        for label, entry in recipe.strategies.items()
    }
    return recipe.model_copy(update={"strategies": entries})


def _without_the_rest(folder: str) -> list[str]:
    return [
        f"runs={folder}",
        "evaluation={tasks: [], every: null}",
        "log.trackers=[]",
        "checkpoint.every=1_000_000_000",
        "train={steps: 1_000_000_000, samples: null, epochs: null, keep_locked: false}",  # as in the first epoch
        "train.first_batches=[]",
    ]


def _measure(run: Run, name: str, steps: int) -> Bench:
    batches = run.stream.batches(0)
    try:
        for number in range(WARM_UP):
            _step(run, batches, number)
        seconds, waited = _time_each(lambda number: _step(run, batches, WARM_UP + number), steps, run.device)
        with Stopwatch(run) as stopwatch:
            laps = [_lap(run, batches, WARM_UP + steps + number, stopwatch) for number in range(steps)]
        counter: Any = FlopCounterMode(display=False)
        with counter:
            _step(run, batches, WARM_UP + 2 * steps)
        rate = run.stream.decode_rate
        return Bench(
            recipe=name,
            batch_size=run.recipe.train.batch_size,
            seconds=seconds,
            waited=waited,
            parts={part: statistics.median(lap[part] for lap in laps) for part in PARTS},
            operations=float(counter.get_total_flops()),
            device=this_device(run.device),
            precision=run.recipe.train.precision,
            decode=run.stream.workers / rate if rate else None,
            peak_bytes=torch.cuda.max_memory_allocated() if run.device.type == "cuda" else None,
        )
    finally:
        batches.close()


def _step(run: Run, batches: Iterator[Batch], number: int) -> float:
    """Take one step as the trainer does; return the seconds that it waited for data."""
    started = time.perf_counter()
    batch = next(batches)
    waited = time.perf_counter() - started
    for optimizer in run.optimizers:
        set_learning_rate(optimizer, run.rate(number), number)
    train.one_step(run, run.stream.upload(batch), number)
    return waited


def _time_each(step: Callable[[int], float], steps: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Return the seconds of each step and what it waited for data; the device is never waited for in between."""
    waited = []
    if device.type != "cuda":
        seconds = []
        for number in range(steps):
            started = time.perf_counter()
            waited.append(step(number))
            seconds.append(time.perf_counter() - started)
        return seconds, waited
    torch.cuda.synchronize()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    marks[0].record()
    for number, mark in enumerate(marks[1:]):
        waited.append(step(number))
        mark.record()
    torch.cuda.synchronize()
    return [earlier.elapsed_time(later) / 1e3 for earlier, later in pairwise(marks)], waited


def _lap(run: Run, batches: Iterator[Batch], number: int, stopwatch: Stopwatch) -> dict[str, float]:
    """Return the seconds of one step by part."""
    stopwatch.seconds.clear()
    wait(run.device)
    started = time.perf_counter()
    waited = _step(run, batches, number)
    wait(run.device)
    total = time.perf_counter() - started
    known = {"data": waited, **{part: stopwatch.seconds[part] for part in ("towers", "loss", "optimizer")}}
    return {**known, "backward": total - sum(known.values())}


class Stopwatch:
    """Times calls of the towers, the objective and the optimizers, and waits for the device before and after each."""

    def __init__(self, run: Run):
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = run.device
        self._started = 0.0
        self._hooks: list[Any] = []
        modules: dict[str, nn.Module] = {"towers": run.model, "loss": run.objective}
        for part, module in modules.items():
            self._hooks.append(module.register_forward_pre_hook(lambda *_: self._start()))
            self._hooks.append(module.register_forward_hook(lambda *_, part=part: self._stop(part)))
        for optimizer in run.optimizers:
            self._hooks.append(optimizer.register_step_pre_hook(lambda *_: self._start()))
            self._hooks.append(optimizer.register_step_post_hook(lambda *_: self._stop("optimizer")))

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _start(self) -> None:
        wait(self._device)
        self._started = time.perf_counter()

    def _stop(self, part: str) -> None:
        wait(self._device)
        self.seconds[part] += time.perf_counter() - self._started


def this_device(device: torch.device) -> Device:
    """Measure what a device can do: products by precision, and memory."""
    side = SIDES[device.type]
    rates = {"matrix": product_rate(device, torch.bfloat16, side)}
    for name, reading in (("tf32", tf32), ("float32", whole_float32)):
        with reading():
            rates[name] = product_rate(device, torch.float32, side)
    source = torch.zeros(COPIED[device.type], dtype=torch.uint8, device=device)
    bandwidth = 2 * len(source) / fastest(source.clone, device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, memory = properties.name, float(properties.total_memory)
    else:
        name, memory = machine(), float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    known = known_as(name)
    return Device(name, **rates, memory=memory, bandwidth=bandwidth, link=known.link if known else bandwidth)
