"""What a forked training carries with it: a counter of its steps, a signal at one of them, its file events."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.file_events import FileEvents
from benchmarks.forked_runs import Scene, newest_step
from vlp.run.log import Log


class Instruments:
    """What the first process of a training does before it trains.

    Args:
        stops_at: Step of the run at which it sends itself a signal; 0 for none.
        number: That signal.
        at: Number of the file event that goes wrong; 0 for none.
        mode: How it goes wrong.
        log: File that gets a line per event.
        tell: Descriptor that is told when the event comes.
    """

    def __init__(
        self,
        scene: Scene,
        *,
        stops_at: int = 0,
        number: int = signal.SIGTERM,
        at: int = 0,
        mode: str = "kill",
        log: Path | None = None,
        tell: int | None = None,
    ):
        self.scene = scene
        self.stops_at, self.number = stops_at, number
        self.at, self.mode, self.log, self.tell = at, mode, log, tell
        self.count = mmap.mmap(-1, 8)  # seen by the process that forks, too

    @property
    def steps(self) -> int:
        """Steps that this start has done so far."""
        return int.from_bytes(self.count[:], "little")

    def __call__(self, rank: int, others: Sequence[int]) -> None:
        """Prepare a process."""
        if rank:
            return
        self._count_steps()
        if self.log is None and not self.at:
            return
        FileEvents(
            self.scene.runs,
            at=self.at,
            mode=self.mode,
            log=None if self.log is None else os.open(self.log, os.O_WRONLY | os.O_APPEND),
            tell=self.tell,
            others=others,
            probe=lambda: f"{newest_step(self.scene.run)}\t{self.steps}",
        ).install()

    def _count_steps(self) -> None:
        step, start, first = Log.step, Log.__init__, [0]

        def begin(log: Log, path: Path, **words: Any) -> None:
            first[0] = words["first_step"]
            start(log, path, **words)

        def counted(log: Log) -> None:
            step(log)
            self.count[:] = (self.steps + 1).to_bytes(8, "little")
            if first[0] + self.steps == self.stops_at:
                os.kill(os.getpid(), self.number)

        Log.step, Log.__init__ = counted, begin  # type: ignore[method-assign]
