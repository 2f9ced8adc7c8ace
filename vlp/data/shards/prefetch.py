"""Fetch the shards that a run will need next, while it still reads others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from vlp.data.shards.remote import TransferError
from vlp.data.shards.shard import Shard
from vlp.ground.types import RecipeError

LOOK_AGAIN_SECONDS = 1.0


class Needed(NamedTuple):
    """A shard, and when it is read.

    Args:
        first: Position from which on it may be.
        end: Position from which on it is not, until it comes again.
    """

    first: int
    end: int
    shard: Shard


class Prefetcher:
    """Some threads that make copies of shards in the order of their first use, and let go of those used no more.

    It never fails: whoever reads a shard that could not be fetched tries once more, and says what is wrong. Start it
    after processes were forked, which would inherit what its threads have open.

    Args:
        needs: What is read when, by first positions.
        position: Where reading begins.
        ahead: Positions ahead of reading whose shards are fetched; all shards of a window share one.
        connections: Shards that are fetched at the same time.
    """

    def __init__(self, needs: Iterator[Needed], *, position: int, ahead: int = 2, connections: int = 4):
        self._needs = needs
        self._position = position
        self._ahead = ahead
        self._next = next(needs, None)
        self._taken: list[Needed] = []
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
            over = [need for need in self._taken if need.end <= position]
            self._taken = [need for need in self._taken if need.end > position]
            for need in over:
                self._let_go(need)
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
        while need := self._take():
            with contextlib.suppress(TransferError, RecipeError, OSError):
                self._fetch(need)

    def _take(self) -> Needed | None:
        with self._changed:
            while not self._closed and (need := self._next) is not None:
                ahead = {taken.first for taken in self._taken if taken.first > self._position}
                if need.first in ahead or len(ahead) < self._ahead:
                    self._taken.append(need)
                    self._next = next(self._needs, None)
                    return need
                self._changed.wait()
        return None

    def _fetch(self, need: Needed) -> None:
        """Fetch a shard as soon as there is room for it, unless reading is past it by then."""
        self._keep_taken()
        while not need.shard.fetch(soon=True):
            with self._changed:
                if self._closed or need.end <= self._position:
                    return
                self._changed.wait(LOOK_AGAIN_SECONDS)
            self._keep_taken()
        with self._changed:
            if need.end <= self._position:
                self._let_go(need)

    def _keep_taken(self) -> None:
        """Say of what was fetched and not read yet that it is in use: it must not make room for what comes later."""
        with self._changed:
            for need in self._taken:
                need.shard.keep()

    def _let_go(self, need: Needed) -> None:
        """Release a shard that does not come again soon."""
        if all(taken.shard is not need.shard for taken in self._taken):
            need.shard.release()
