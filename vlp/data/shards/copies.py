"""Copies of shards that cannot be read where they lie, in the cache: made once per machine, bounded in their sum.

Before a copy is made, room for it is reserved, so that several that are made at the same time count too. What is
wanted soon leaves alone what is in use; what is wanted now takes the room of what was used longest ago.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, TypeVar

from vlp.data.shards.index import SUFFIX, build_index
from vlp.ground.cache_folder import cache_folder

Answer = TypeVar("Answer")
# The copies that some process reads are touched more often than this.
IN_USE_SECONDS = 60.0
# A reader opens a copy within this time of its arrival, however little room there is.
ARRIVED_SECONDS = 1.0
ABANDONED_SECONDS = 86_400.0
LOOK_AGAIN_SECONDS = 0.05
NUM_LOCKS = 256
RESERVED = ".room"


def copy_path(name: str) -> Path:
    """Return where the copy called `name` belongs; its index lies beside it."""
    return cache_folder("copies") / f"{name}.tar"


def index_path(copy: Path) -> Path:
    """Return where the index of a copy lies."""
    return copy.with_name(copy.name + SUFFIX)


def use_copy(
    target: Path,
    use: Callable[[], Answer | None],
    fill: Callable[[Path], str],
    limit_bytes: float | None,
    num_bytes: int = 0,
    *,
    soon: bool = False,
) -> Answer | None:
    """Use a copy while it cannot leave, made first unless it is there; of several processes one makes it.

    Args:
        target: From `copy_path`.
        use: What to do with it; returns nothing true where it is not there, or not sound, so that it is made anew.
        fill: Writes a plain tar to the path it is given, and returns what cut it short.
        limit_bytes: Largest sum of all copies; those used longest ago leave.
        num_bytes: How large it will be, as far as that is known.
        soon: Whether it is only wanted soon: then it does not take the room of one in use.

    Returns:
        What `use` did; nothing true with `soon` where there is no room, or where a new copy is not sound either.

    Raises:
        OSError: The cache cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(f"{int(target.stem, 16) % NUM_LOCKS:02x}"):
        with locked("room"):
            used = use()
        if used:
            return used
        with _reserve(target, num_bytes, limit_bytes, soon=soon) as is_free:
            if not is_free:
                return None
            unready = target.with_suffix(".new")
            fault = fill(unready)
            index_path(target).write_bytes(build_index(unready, fault))
            os.utime(unready)
            unready.replace(target)
            if limit_bytes is not None and target.stat().st_size > num_bytes:
                with locked("room"):
                    _make_room(target, target.stat().st_size, limit_bytes, even_used=not soon)
            return use()


def touch(copy: Path) -> None:
    """Say that a copy is in use."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(copy)


def release(copy: Path) -> None:
    """Say that a copy is used no more, so that it leaves before others."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(copy, (time.time() - IN_USE_SECONDS,) * 2)


@contextlib.contextmanager
def _reserve(target: Path, num_bytes: int, limit_bytes: float | None, *, soon: bool) -> Iterator[bool]:
    """Keep room for a copy while it is made; yield whether there is some."""
    while (reservation := _try_to_reserve(target, num_bytes, limit_bytes, soon=soon)) is None:
        if soon:
            yield False
            return
        time.sleep(LOOK_AGAIN_SECONDS)
    with reservation:
        try:
            yield True
        finally:
            with locked("room"):  # whoever adds up sees it reserved, or whole
                Path(reservation.name).unlink(missing_ok=True)
                fcntl.flock(reservation, fcntl.LOCK_UN)


def _try_to_reserve(target: Path, num_bytes: int, limit_bytes: float | None, *, soon: bool) -> TextIO | None:
    with locked("room"):
        if limit_bytes is not None and not _make_room(target, num_bytes, limit_bytes, even_used=not soon):
            return None
        # Whoever finds it unlocked knows that its process died.
        reservation = target.with_suffix(RESERVED).open("w", encoding="utf-8")
        fcntl.flock(reservation, fcntl.LOCK_EX)
        reservation.write(str(num_bytes))
        reservation.flush()
        return reservation


@dataclass
class _Files:
    """What belongs to one copy: it, its index, what is unfinished of it.

    Args:
        used: When it was last in use.
        reserved: Bytes that are kept for it while it is made; None otherwise.
    """

    paths: list[Path] = field(default_factory=list)
    on_disk: int = 0
    used: float = 0.0
    reserved: int | None = None

    @property
    def bytes(self) -> int:
        """What it takes now, or will take."""
        return max(self.on_disk, self.reserved or 0)

    @property
    def is_whole(self) -> bool:
        """Whether it can be read."""
        return any(path.suffix == ".tar" for path in self.paths)

    def add(self, path: Path) -> None:
        """Count a file that may vanish meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == RESERVED:
                self.reserved = _reserved_bytes(path)
                return
            status = path.stat()
            self.paths.append(path)
            self.on_disk += status.st_size
            if path.suffix != SUFFIX:
                self.used = max(self.used, status.st_mtime)

    def remove(self) -> None:
        """Delete all of it."""
        for path in self.paths:
            path.unlink(missing_ok=True)


def _reserved_bytes(reservation: Path) -> int | None:
    """Return how many bytes are reserved; None where whoever wanted them died."""
    with reservation.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0)
        reservation.unlink(missing_ok=True)
        return None


def _make_room(target: Path, num_bytes: int, limit_bytes: float, *, even_used: bool) -> bool:
    """Delete what was used longest ago until a copy has room; return whether it has.

    A copy larger than all that is allowed has room when it is alone.
    """
    others: dict[str, _Files] = {}
    for path in target.parent.iterdir():
        name = path.name.partition(".")[0]
        if name != target.stem:
            others.setdefault(name, _Files()).add(path)
    now = time.time()
    youngest = now - (ARRIVED_SECONDS if even_used else IN_USE_SECONDS)
    total = sum(files.bytes for files in others.values())
    for files in sorted(others.values(), key=lambda files: files.used):
        is_abandoned = not files.is_whole and files.used < now - ABANDONED_SECONDS
        # A clock that differs from the file system's must not keep copies for ever.
        is_used = youngest < files.used < now + IN_USE_SECONDS
        is_in_the_way = total + num_bytes > limit_bytes and not is_used
        if files.reserved is None and (is_abandoned or is_in_the_way):
            files.remove()
            total -= files.bytes
    return total == 0 or total + num_bytes <= limit_bytes


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
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
