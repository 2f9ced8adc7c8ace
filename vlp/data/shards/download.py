"""Fetch a file whole, however often the line breaks: go on where it broke, wait longer each time, give up at last."""

from __future__ import annotations

import errno
import json
import mmap
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_args

import numpy as np

from vlp.data.shards.remote import Body, Remote, TransferError, Trouble, Version, read, refuse_page
from vlp.ground.files import sha256_of
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError

Answer = TypeVar("Answer")
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
# A line that breaks once per gigabyte is no reason to give up; one that never brings this much is.
PROGRESS_BYTES = 1 << 20
SLOWEST_BYTES_PER_SECOND = 4096  # over a whole time-out; a shard of a gigabyte would take three days
NUM_ROWS = 256
TROUBLES: tuple[str, ...] = get_args(Trouble)


@dataclass(frozen=True)
class Expected:
    """What a file must be; -1 and empty where nobody knows."""

    bytes: int = -1
    tag: str = ""
    sha256: str = ""


class RemoteStats:
    """How often transfers of one source met which trouble, in all processes that were forked after it was made.

    Args:
        source: Name of the card.
    """

    def __init__(self, source: str):
        self.source = source
        # Anonymous shared memory. No two threads of a machine have the same number at a time, so that rows of their own
        # take the place of a lock, which a killed process might hold for ever.
        self._memory = mmap.mmap(-1, NUM_ROWS * len(TROUBLES) * 8)
        self._rows = np.frombuffer(self._memory, dtype=np.int64).reshape(NUM_ROWS, len(TROUBLES))

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStats, (self.source,)

    @property
    def counts(self) -> dict[str, int]:
        """Failed tries by trouble, as far as there were any."""
        sums = self._rows.sum(axis=0).tolist()
        return {trouble: number for trouble, number in zip(TROUBLES, sums, strict=True) if number}

    def count(self, trouble: Trouble) -> None:
        """Count a failed try."""
        self._rows[threading.get_native_id() % NUM_ROWS, TROUBLES.index(trouble)] += 1


def download(remote: Remote, target: Path, expected: Expected, *, tries: int, stats: RemoteStats) -> None:
    """Fetch an address into a file; what an earlier call left unfinished is gone on with.

    Args:
        target: The file; while it grows it is called `.partial`.
        expected: Checked before the file gets its name.
        tries: Tries in a row that bring next to nothing.
        stats: Counts every failed try.

    Raises:
        TransferError: The last try failed.
        RecipeError: The back end is not installed, or the disk is full.
    """
    partial = _Partial(target)
    failed, furthest = 0, partial.bytes
    while True:
        if not partial.tag and not expected.sha256:
            partial.clear()  # nobody could tell whether it belongs to the same file
        try:
            _transfer(remote, partial, expected)
            break
        except TransferError as error:
            stats.count(error.trouble)
            if error.trouble in ("changed", "no_tar", "wrong_checksum"):
                partial.clear()
            failed = 1 if partial.bytes >= furthest + PROGRESS_BYTES else failed + 1
            furthest = max(furthest, partial.bytes)
            if error.is_final or failed >= tries:
                raise
            time.sleep(_wait_seconds(remote.url, failed, error.wait_seconds))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            partial.clear()
            raise RecipeError(
                f"no room for {remote.name} in {target.parent}; "
                "set XDG_CACHE_HOME to a larger disk, or lower the card's `cache_gb`"
            ) from error
    partial.finish()


def ask(question: Callable[[Remote], Answer], remote: Remote, *, tries: int, stats: RemoteStats) -> Answer:
    """Put a short question to a server until it answers.

    Raises:
        TransferError: The last try failed.
        RecipeError: The back end is not installed.
    """
    for failed in count(1):
        try:
            return question(remote)
        except TransferError as error:
            stats.count(error.trouble)
            if error.is_final or failed >= tries:
                raise
            time.sleep(_wait_seconds(remote.url, failed, error.wait_seconds))
    raise AssertionError


def _transfer(remote: Remote, partial: _Partial, expected: Expected) -> None:
    with read(remote, partial.bytes, partial.tag) as body:
        beginning = next(body.chunks, b"")
        if body.offset == 0:
            refuse_page(remote, beginning)
        _check_version(remote, body.version, expected)
        pace = _Pace(remote)
        with partial.open(body) as file:
            file.write(beginning)
            for chunk in body.chunks:
                pace.check(len(chunk))
                file.write(chunk)
    total = expected.bytes if body.version.bytes == -1 else body.version.bytes
    if partial.bytes != total != -1:
        trouble: Trouble = "short" if partial.bytes < total else "changed"
        raise TransferError(trouble, f"{remote.url}: {partial.bytes} of {total} bytes")
    if expected.sha256 and partial.sha256() != expected.sha256:
        raise TransferError("wrong_checksum", f"{remote.url}: its sha256 is not {expected.sha256}")


class _Pace:
    """Ends a transfer that drips: silence is noticed by the time-out, a byte now and then is not."""

    def __init__(self, remote: Remote):
        self._remote = remote
        self._begin()

    def check(self, num_bytes: int) -> None:
        """Count further bytes.

        Raises:
            TransferError: Too few came within the time-out.
        """
        self._bytes += num_bytes
        seconds = time.monotonic() - self._since
        if seconds < self._remote.timeout_seconds:
            return
        if self._bytes < SLOWEST_BYTES_PER_SECOND * seconds:
            raise TransferError("stalled", f"{self._remote.url}: {self._bytes} bytes in {seconds:.0f} s")
        self._begin()

    def _begin(self) -> None:
        self._bytes, self._since = 0, time.monotonic()


def _check_version(remote: Remote, found: Version, expected: Expected) -> None:
    """Compare what a server says with what the index of the card says, before all bytes are read.

    Raises:
        TransferError: They differ.
    """
    other_size = -1 not in (found.bytes, expected.bytes) and found.bytes != expected.bytes
    # A checksum tells more than a version, which differs from mirror to mirror.
    other_tag = "" not in (found.tag, expected.tag) and found.tag != expected.tag and not expected.sha256
    if other_size or other_tag:
        raise TransferError(
            "changed",
            f"{remote.url} has {found.bytes} bytes and version {found.tag}, not {expected.bytes} and {expected.tag} as "
            "it had; run vlp data index again if it was replaced",
        )


def _wait_seconds(url: str, failed: int, told: float) -> float:
    """Return twice the last wait, give or take half of it, so that many machines do not come back at once."""
    draw = Draws(zlib.crc32(url.encode()), failed).uniform(0.5, 1.5)
    return min(max(FIRST_WAIT_SECONDS * 2 ** (failed - 1) * draw, told), LONGEST_WAIT_SECONDS)


class _Partial:
    """A file that is not whole yet, and the version that its bytes belong to."""

    def __init__(self, target: Path):
        self.target = target
        self.path = target.with_name(f"{target.name}.partial")
        self._note = target.with_name(f"{target.name}.version")
        target.parent.mkdir(parents=True, exist_ok=True)

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def tag(self) -> str:
        return self._version().tag

    def open(self, body: Body) -> BinaryIO:
        """Open the file where a body begins.

        Raises:
            TransferError: The body belongs to another version than the bytes that are here.
        """
        if body.offset == 0:
            self.clear()
            self._note.write_text(json.dumps(asdict(body.version)), encoding="utf-8")
        elif body.offset != self.bytes or body.version != self._version():
            raise TransferError("changed", f"{self.target.name} changed between two tries")
        return self.path.open("ab")

    def sha256(self) -> str:
        return sha256_of(self.path)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self) -> None:
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)

    def _version(self) -> Version:
        try:
            return Version(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Version(-1, "")
