"""Fetch the shards that a run will need next, while it still reads others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType

from vlp.data.shards.remote import TransferError
from vlp.data.shards.shard import Shard
from vlp.types import RecipeError


class Prefetcher:
    """Some threads that make copies of shards in the order of their first use.

    It never fails: whoever reads a shard that could not be fetched tries once more, and says what is wrong. Start it
    after processes were forked, which would inherit what its threads have open.

    Args:
        uses: Position at which each shard is needed first, and the shard; ascending.
        position: Where reading begins.
        ahead: Positions ahead of reading whose shards are fetched; all shards of a window share one.
        connections: Shards that are fetched at the same time.
    """

    def __init__(self, uses: Iterator[tuple[int, Shard]], *, position: int, ahead: int = 2, connections: int = 4):
        self._uses = uses
        self._position = position
        self._ahead = ahead
        self._next = next(uses, None)
        self._taken: set[int] = set()
        self._closed = False
        self._changed = threading.Condition()
        needed = connections if self._next else 0
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(needed)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, position: int) -> None:
        """Tell how far reading has come."""
        with self._changed:
            self._position = position
            self._changed.notify_all()

    def close(self) -> None:
        """Begin no further shard; what is being fetched may be gone on with by others."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until every shard has been tried."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while shard := self._take():
            with contextlib.suppress(TransferError, RecipeError, OSError):
                shard.fetch()

    def _take(self) -> Shard | None:
        with self._changed:
            while not self._closed and self._next is not None:
                first, shard = self._next
                self._taken = {taken for taken in self._taken if taken > self._position}
                if first in self._taken or len(self._taken) < self._ahead:
                    self._taken.add(first)
                    self._next = next(self._uses, None)
                    return shard
                self._changed.wait()
        return None
