"""Copies of shards that cannot be read where they lie, in the cache: made once per machine, bounded in their sum."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vlp.data.shards.cache import cache_folder
from vlp.data.shards.index import SUFFIX, build_index

# The copies that some process reads are touched more often than this.
IN_USE_SECONDS = 60.0
ABANDONED_SECONDS = 86_400.0
NUM_LOCKS = 256


def copy_path(name: str) -> Path:
    """Return where the copy called `name` belongs; its index lies beside it."""
    return cache_folder("copies") / f"{name}.tar"


def index_path(copy: Path) -> Path:
    """Return where the index of a copy lies."""
    return copy.with_name(copy.name + SUFFIX)


def make_copy(target: Path, fill: Callable[[Path], str], limit_bytes: float | None) -> None:
    """Make a copy with its index unless it is there; of several processes one does, the others wait.

    Args:
        target: From `copy_path`.
        fill: Writes a plain tar to the path it is given, and returns what cut it short.
        limit_bytes: Copies used longest ago are deleted while all of them together have more.

    Raises:
        OSError: The cache cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(f"{int(target.stem, 16) % NUM_LOCKS:02x}"):
        if target.exists():
            return
        unready = target.with_suffix(".new")
        fault = fill(unready)
        index_path(target).write_bytes(build_index(unready, fault))
        os.utime(unready)
        unready.replace(target)
    if limit_bytes is not None:
        with _lock("room"):
            _make_room(target, limit_bytes)


def touch(copy: Path) -> None:
    """Say that a copy is in use."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(copy)


def _make_room(newest: Path, limit_bytes: float) -> None:
    now = time.time()
    copies = {path: path.stat() for path in newest.parent.glob("*.tar")}
    total = sum(status.st_size for status in copies.values())
    for path, status in sorted(copies.items(), key=lambda item: item[1].st_mtime_ns):
        if total <= limit_bytes or status.st_mtime > now - IN_USE_SECONDS:
            break
        path.unlink()
        index_path(path).unlink(missing_ok=True)
        total -= status.st_size
    for path in newest.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.suffix not in (".tar", SUFFIX) and path.stat().st_mtime < now - ABANDONED_SECONDS:
                path.unlink()


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Keep other threads, processes and, where the file system can, machines out."""
    folder = cache_folder("locks")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Closing is not enough: a process that was forked meanwhile holds the same lock.
            fcntl.flock(file, fcntl.LOCK_UN)
