"""How long a GPU had nothing to do between steps, by events on its stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch.cuda import Event


@dataclass(frozen=True)
class Gap:
    """What lay between two steps: the end of one as the device reached it, the begin of the next one.

    Args:
        launched: When the host had launched all of the step, in seconds.
        waited: Seconds that the host then waited for data.
        paused: Seconds of what does not count, such as an evaluation.
    """

    end: Event
    begin: Event
    launched: float
    waited: float
    paused: float


class HostWaits:
    """Tell what a run waited for whose host computes: all the time in which no batch was there."""

    def __init__(self) -> None:
        self._waited = 0.0

    def step_begins(self, waited: float) -> None:
        """Take note that the next batch is there.

        Args:
            waited: Seconds that it took.
        """
        self._waited += waited

    def step_launched(self) -> None:
        """Take note that the host has launched all of a step, which a GPU may only have begun."""

    def pause(self, seconds: float) -> None:
        """Leave out what the host did since the step, and for how long."""

    def lap(self, seconds: float) -> dict[str, float]:
        """Return `data_wait`, the share of a lap of so many seconds that was lost waiting for data."""
        waited, self._waited = self._waited, 0.0
        return {"data_wait": min(1.0, waited / seconds)}


class DeviceIdle(HostWaits):
    """Tell what a GPU waited for: events are set at both ends of each step, and read once per lap.

    A host that waits for data while the device still works costs nothing, so its own clock cannot tell.

    Args:
        new_event: Makes an event that keeps the time.
    """

    def __init__(self, new_event: Callable[[], Event]):
        super().__init__()
        self._new_event = new_event
        self._gaps: list[Gap] = []
        self._end: Event | None = None
        self._launched = self._paused = 0.0

    def step_launched(self) -> None:
        """Set an event behind the step."""
        self._end = self._set()
        self._launched, self._paused = time.monotonic(), 0.0

    def pause(self, seconds: float) -> None:
        """Remember for how long; the gap to the next step holds it."""
        self._paused += seconds

    def step_begins(self, waited: float) -> None:
        """Set an event in front of the step."""
        super().step_begins(waited)
        if self._end is not None:
            self._gaps.append(Gap(self._end, self._set(), self._launched, waited, self._paused))
        self._end = None

    def lap(self, seconds: float) -> dict[str, float]:
        """Return metrics since the last lap, for which it waits for the device; without a gap those of the host.

        Args:
            seconds: Length of the lap.

        Returns:
            `device_idle`, the share of time in which the device had nothing to do between steps, and `data_wait`, the
            part of it in which the host waited for data. `work_ahead`, the work that the device had left when the host
            had launched a step, as a share of a step (median): near 0, the device waits for launches within steps.
        """
        of_host = super().lap(seconds)
        gaps, self._gaps = self._gaps, []
        if not gaps:
            return of_host
        now = self._set()
        now.synchronize()
        there = time.monotonic()
        idle = [max(0.0, gap.end.elapsed_time(gap.begin) / 1e3 - gap.paused) for gap in gaps]
        data = [min(lasted, gap.waited) for lasted, gap in zip(idle, gaps, strict=True)]
        left = [max(0.0, there - gap.end.elapsed_time(now) / 1e3 - gap.launched) for gap in gaps]
        return {
            "data_wait": min(1.0, sum(data) / seconds),
            "device_idle": min(1.0, sum(idle) / seconds),
            "work_ahead": median(left) * len(gaps) / seconds,
        }

    def _set(self) -> Event:
        event = self._new_event()
        event.record()
        return event


def watch(device: torch.device) -> DeviceIdle | None:
    """Return what tells the idle time of a device; nothing for a CPU, which works while it waits for nobody."""
    return DeviceIdle(partial(Event, enable_timing=True)) if device.type == "cuda" else None
