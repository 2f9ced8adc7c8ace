"""End a process that waits for ever, and say where it waits."""

from __future__ import annotations

import faulthandler
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

from vlp.ground import dist
from vlp.run.trained_head import HeadEncoder
from vlp.towers.around_encoder import AroundEncoder
from vlp.towers.encoder import TowerEncoder

STDERR = 2  # by number: in a notebook `sys.stderr` is no file


class Watchdog:
    """Leave with exit code 1, and the stack of every thread on the error stream, when no progress is told for long.

    The time runs outside the interpreter, so that it also ends what holds the interpreter's lock: a collective whose
    partner is gone, a driver that does not answer, a file system that hangs. Collectives wait no longer either. It is
    faulthandler's timer, of which a process has one, and which must not run in a process while that is forked to train.

    Args:
        seconds: Longest time between two calls of `beat`.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __enter__(self) -> Watchdog:
        dist.set_timeout(self.seconds)
        self.beat()
        return self

    def beat(self) -> None:
        """Tell that something was finished."""
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=STDERR)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()


class WatchedEncoder(AroundEncoder):
    """Tells a watchdog of each call, and offers whatever the encoder does.

    Args:
        encoder: Of the model, or behind one of its heads.
        watchdog: To be told.
    """

    def __init__(self, encoder: TowerEncoder | HeadEncoder, watchdog: Watchdog):
        super().__init__(encoder)
        self.watchdog = watchdog

    @property
    def ungated(self) -> WatchedEncoder:
        """What stands in front of the head, watched as well: `encoder` is the head here."""
        return WatchedEncoder(self.encoder.ungated, self.watchdog)

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, function: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        self.watchdog.beat()
        return function(*inputs, **named)
