"""A process that waits for a shard says so: it does not hang, however long that takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class _Told:
    def __init__(self) -> None:
        self.listener: Callable[[bool], None] = lambda _waits: None


_told = _Told()


def tell(listener: Callable[[bool], None]) -> None:
    """Have a function called with True when this process begins to wait for a shard, and with False when it goes on."""
    _told.listener = listener


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Wait for a shard in the block."""
    _told.listener(True)
    try:
        yield
    finally:
        _told.listener(False)
