"""Where a shard can be read on this machine: in place, or from a copy that is made when it is first needed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from vlp.data.faults import BadSampleError
from vlp.data.shards.cache import cache_name, cache_path
from vlp.data.shards.cards import Card
from vlp.data.shards.copies import copy_path, index_path, release, touch, use_copy
from vlp.data.shards.download import Expected, RemoteStats, download
from vlp.data.shards.index import SUFFIX, Footer, Index, build_index, index_in_memory, open_index
from vlp.data.shards.open_files import OpenFiles
from vlp.data.shards.remote import TransferError
from vlp.data.shards.summary import Known
from vlp.data.shards.unpack import packing, unpack
from vlp.data.shards.waits import waiting
from vlp.ground.files import write_whole
from vlp.ground.types import RecipeError

Answer = TypeVar("Answer")
# Every sample of a shard that cannot be fetched would wait for all tries again.
GIVEN_UP_SECONDS = 300.0


class Home(Protocol):
    """Where a shard can be read."""

    def open(self, files: OpenFiles) -> tuple[Path, Index]:
        """Return the plain tar and its index, made first if need be.

        Raises:
            OSError: It is not there.
            BadSampleError: It cannot be fetched, or is not what it was.
        """
        ...

    def fetch(self, *, soon: bool = False) -> bool:
        """Make sure that `open` need not wait; return whether that is so.

        Args:
            soon: Whether it may be left undone while other copies need the room.

        Raises:
            TransferError: It cannot be fetched.
        """
        ...

    def touch(self) -> None:
        """Say that the shard is in use."""
        ...

    def release(self) -> None:
        """Say that the shard is used no more."""
        ...

    def index_places(self) -> tuple[Path, ...]:
        """Return where the index may lie, the best place first.

        Raises:
            OSError: The shard is not there.
        """
        ...


@dataclass(frozen=True)
class InPlace:
    """A plain tar that is read where it lies.

    Args:
        path: The tar.
        tag: `tag_of` the tar when the run began; empty accepts any.
    """

    path: Path
    tag: str = ""

    def open(self, files: OpenFiles) -> tuple[Path, Index]:
        """Return the tar and its index: the one beside it, or the one in the cache, or a new one."""
        status = self.path.stat()
        if self.tag and tag_of(status) != self.tag:
            raise BadSampleError("shard_error", f"{self.path} changed since the run began")
        for path in self.index_places():
            index = open_index(path, files)
            if index and is_fresh(index.footer, status, path):
                return self.path, index
        content = build_index(self.path)
        # A cache that cannot be written costs the next start a scan, nothing else.
        with contextlib.suppress(OSError), write_whole(path) as file:
            file.write(content)
        return self.path, open_index(path, files) or index_in_memory(content)

    def fetch(self, *, soon: bool = False) -> bool:  # noqa: ARG002
        """Return True: it is here."""
        return True

    def touch(self) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Do nothing."""

    def index_places(self) -> tuple[Path, ...]:
        """Return the place beside the tar, with which an index travels, and the one in the cache."""
        return self.path.with_name(self.path.name + SUFFIX), cache_path(self.path, SUFFIX)


class Copied:
    """A shard that is read from a copy in the cache.

    Args:
        location: What errors call it.
        fill: Writes a plain tar to the path it is given, and returns what cut it short.
        name: Another one for every content.
        limit_bytes: Largest sum of all copies of this machine.
        num_bytes: How large the copy will be, as far as that is known.
    """

    def __init__(
        self, location: str, fill: Callable[[Path], str], name: str, limit_bytes: float | None, num_bytes: int
    ):
        self._location = location
        self._fill = fill
        self._copy = copy_path(name)
        self._limit_bytes = limit_bytes
        self._num_bytes = num_bytes
        self._given_up: tuple[float, str] | None = None

    def open(self, files: OpenFiles) -> tuple[Path, Index]:
        """Return the copy and its index."""
        if self._given_up and time.monotonic() < self._given_up[0]:
            raise BadSampleError("shard_error", self._given_up[1])
        self.touch()
        try:
            found = self._look(files) or self._make(partial(self._look, files))
        except TransferError as error:
            self._given_up = time.monotonic() + GIVEN_UP_SECONDS, str(error)
            raise BadSampleError("shard_error", str(error)) from error
        if not found:
            raise FileNotFoundError(2, "the copy in the cache is damaged", str(self._copy))
        return found

    def fetch(self, *, soon: bool = False) -> bool:
        """Make the copy unless it is there."""
        if self._copy.exists():
            self.touch()
            return True
        return bool(self._make(self._copy.exists, soon=soon))

    def _look(self, files: OpenFiles) -> tuple[Path, Index] | None:
        """Open the copy and its index; None where it is not there, or damaged."""
        files.close_deleted()
        index = open_index(index_path(self._copy), files)
        with contextlib.suppress(FileNotFoundError):
            if index is not None and index.footer.tar_bytes == files.size(self._copy):
                return self._copy, index
        return None

    def _make(self, use: Callable[[], Answer | None], *, soon: bool = False) -> Answer | None:
        try:
            with waiting():
                return use_copy(self._copy, use, self._fill, self._limit_bytes, self._num_bytes, soon=soon)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RecipeError(
                f"cannot copy {self._location} into {self._copy.parent} ({error.strerror}); "
                "set XDG_CACHE_HOME to a folder with room, or use plain local tars"
            ) from error

    @property
    def is_here(self) -> bool:
        """Whether there is a copy."""
        return self._copy.exists()

    def forget_fault(self) -> None:
        """Remove a copy that came broken: the next may be whole."""
        index = open_index(index_path(self._copy), OpenFiles())
        if index is not None and index.footer.fault:
            self._copy.unlink(missing_ok=True)

    def touch(self) -> None:
        """Keep the copy from being deleted for a while."""
        touch(self._copy)

    def release(self) -> None:
        """Let the copy leave before others."""
        release(self._copy)

    def index_places(self) -> tuple[Path, ...]:
        """Return the place beside the copy."""
        return (index_path(self._copy),)


def tag_of(status: os.stat_result) -> str:
    """Return a word that changes when a local file does."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def is_fresh(footer: Footer, status: os.stat_result, index: Path) -> bool:
    """Whether an index belongs to the present content of its tar.

    A copied data set has new times; there the index must have come to its place after the tar.
    """
    if footer.tar_bytes != status.st_size:
        return False
    return footer.tar_mtime_ns == status.st_mtime_ns or status.st_ctime_ns < index.stat().st_ctime_ns


def local_home(path: Path, tag: str, limit_bytes: float | None, *, is_packed: bool) -> Home:
    """Return the home of a tar on a disk, plain or compressed."""
    if not is_packed:
        return InPlace(path, tag)
    status = path.stat()
    name = cache_name(str(path.resolve()), tag_of(status))
    return Copied(str(path), partial(unpack, path), name, limit_bytes, status.st_size)


def remote_home(card: Card, location: str, known: Known, stats: RemoteStats) -> Copied:
    """Return the home of a shard that lies on another machine."""
    identity = known.sha256 or f"{known.bytes}-{known.tag}"
    fill = _Download(card, location, Expected(known.bytes, known.tag, known.sha256), stats)
    return Copied(location, fill, cache_name(location, identity), card.limit_bytes, max(known.bytes, 0))


@dataclass(frozen=True)
class _Download:
    card: Card
    location: str
    expected: Expected
    stats: RemoteStats

    def __call__(self, target: Path) -> str:
        remote = self.card.remote(self.location)
        fetch = partial(download, remote, expected=self.expected, tries=self.card.tries, stats=self.stats)
        fetch(target)
        if not packing(target):
            return ""
        packed = target.replace(target.with_suffix(".packed"))
        fault = unpack(packed, target)
        packed.unlink()
        return fault
