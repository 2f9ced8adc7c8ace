"""When things happen: every so many steps, after so many seconds, or because the machine must be left."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from vlp.ground import dist
from vlp.run.device_idle import DeviceIdle, HostWaits

Thing = TypeVar("Thing")
NOTICEABLE_WAIT = 0.1  # share of time; less is noise between batches
LITTLE_WORK = 0.05  # of a step, that a device has left once all is launched: it could do more
PREEMPTED = 75  # exit code after a signal: the state is saved, run the same command with --resume
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def due(step: int, every: int | None, num_steps: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens now."""
    return step == num_steps or (every is not None and step % every == 0)


class StopSignal:
    """Remember that this process was asked to leave; later signals change nothing while the state is saved.

    A launcher that ends without a word (`accelerate launch` does, when it is signalled) asks as well.

    Args:
        launched: Whether a launcher started this process and waits for it.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.asked = False
        self.launcher = os.getppid() if launched else None
        heard = [number for number in SIGNALS if number != signal.SIGHUP or not _is_ignored(number)]  # nohup ignores it
        self.before = {number: signal.signal(number, self._ask) for number in heard}

    def anywhere(self) -> bool:
        """Whether any process was asked; the same answer on all of them."""
        orphaned = self.launcher is not None and os.getppid() != self.launcher
        return dist.any_process(self.asked or orphaned)

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


class Clock:
    """Measure speed, and how much of the time went into waiting for data.

    Args:
        idle: Tells what a GPU waited for; without it the host's own time counts, which on a GPU says nothing.
    """

    def __init__(self, first_step: int, position: int, idle: DeviceIdle | None = None) -> None:
        self.step = first_step
        self.waits = idle or HostWaits()
        self.position = position
        self.laps = 0
        self.lap_started = time.monotonic()

    def waiting(self, things: Iterable[Thing]) -> Iterator[Thing]:
        """Pass things on and count the seconds spent waiting for them."""
        source = iter(things)
        while True:
            started = time.monotonic()
            try:
                thing = next(source)
            except StopIteration:
                return
            self.waits.step_begins(time.monotonic() - started)
            yield thing

    def step_launched(self) -> None:
        """Take note that the host has launched all of a step, which a GPU may only have begun."""
        self.waits.step_launched()

    def lap(self, step: int, position: int) -> dict[str, float]:
        """Return speed and waiting share since the last lap, and start a new one.

        The first one also holds what happens once: processes that start, shards that are opened, kernels chosen.

        Args:
            position: Samples that the whole job has consumed so far.
        """
        seconds = max(time.monotonic() - self.lap_started, 1e-9)
        measured = {"samples_per_second": (position - self.position) / seconds, **self.waits.lap(seconds)}
        self.step, self.position = step, position
        self.laps, self.lap_started = self.laps + 1, time.monotonic()
        return measured

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside (a checkpoint, an evaluation) out of the lap."""
        started = time.monotonic()
        yield
        lasted = time.monotonic() - started
        self.lap_started += lasted
        self.waits.pause(lasted)


def diagnose(measured: Mapping[str, float], workers: int) -> str:
    """Say what a run lacks that could be faster: data, a quicker host, or fewer launches; nothing where it is well.

    Args:
        measured: What `Clock.lap` returns, `decode_rate`: samples per second that all decoding processes can deliver, 0
            where that is unknown, and `compiled_anew`: graphs since the last line, where the towers are compiled.
        workers: Decoding processes of each process.
    """
    wait = measured["data_wait"]
    if wait >= NOTICEABLE_WAIT:
        return _lacks_data(measured, workers)
    if (anew := int(measured.get("compiled_anew", 0))) > 0:
        return (
            f"compile-bound: {anew} {'graph was' if anew == 1 else 'graphs were'} compiled since the last line, for "
            "other shapes or settings of layers: TORCH_LOGS=recompiles says why; where it does not end, "
            "train.compile=false"
        )
    between = measured.get("device_idle", 0.0) - wait
    if between >= NOTICEABLE_WAIT:
        return (
            f"host-bound: for {between:.0%} of the time the device has nothing to do between steps, while the host "
            "writes metrics or prepares the next one: a larger log.every, or fewer processes on its cores"
        )
    if measured.get("work_ahead", 1.0) < LITTLE_WORK:
        return (
            "launch-bound: the device is done as soon as the host has launched a step: train.compile=true, a larger "
            "train.batch_size, or fewer train.micro_batches"
        )
    return ""


def _lacks_data(measured: Mapping[str, float], workers: int) -> str:
    wait, rate = measured["data_wait"], measured["decode_rate"]
    taken = measured["samples_per_second"] / max(1 - wait, 0.01)
    if workers == 0:
        return f"decode-bound: no process decodes beside the model, which takes {taken:,.0f} pairs/s: set data.workers"
    given = f"{workers} {'worker gives' if workers == 1 else 'workers give'} {rate:,.0f} pairs/s"
    if 0 < rate < taken:
        enough = math.ceil(workers * taken / rate)
        return f"decode-bound: {given}, the model takes {taken:,.0f}: try data.workers={enough}"
    arriving = measured["samples_per_second"]
    return f"read-bound: {given} once they have their bytes, {arriving:,.0f} arrive, the model takes {taken:,.0f}"
