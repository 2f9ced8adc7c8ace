"""Files that are written whole or not at all, and what a killed writer leaves."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".partial"
LEFTOVER = re.compile(r"\..+\.partial")
SEAL = re.compile(rb'(\{.+), "crc32": "([0-9a-f]{8})"\}')
SEAL_NAME, SEAL_END = b'"crc32": "', re.compile(rb'"[0-9a-f]{8}"\}$')  # one flipped bit breaks one of them
# What file systems answer that cannot sync folders.
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
# What another process holds, in the words of different file systems.
HELD = (errno.EACCES, errno.EAGAIN)
_held: dict[Path, int] = {}  # descriptors: the system frees what a process holds when the process ends


def beside(path: Path) -> Path:
    """Return a new name in the same folder for what will become `path`; `remove_leftovers` knows it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends, so that nobody ever sees half of it.

    The content is on the disk before the name is; the file before is there until then.

    Raises:
        OSError: The folder cannot be written; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(path)
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once.

    Raises:
        OSError: The folder cannot be written; the file before is there as it was.
    """
    with write_whole(path) as file:
        file.write(text.encode("utf-8"))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    _fsync(path)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can do that."""
    try:
        _fsync(path)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise


def hold(path: Path, seconds: float = 0.0) -> bool:
    """Hold an empty file, which one process of all machines can do, until this process ends.

    Children of this process hold nothing. Where the file system has no locks, everybody holds everything.

    Args:
        seconds: How long to wait for a process that holds it now, and may be about to end.

    Returns:
        Whether nobody else holds it.

    Raises:
        OSError: The file can be neither opened nor made.
    """
    deadline = time.monotonic() + seconds
    if path not in _held or not _is_open_at(path, _held[path]):
        _held[path] = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    while True:
        try:
            fcntl.lockf(_held[path], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in HELD:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)
        else:
            return True


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder; what cannot be removed stays and does no harm."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if LEFTOVER.fullmatch(path.name):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, or as much of it as can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def read_records(path: Path, fits: Callable[[Mapping[str, Any]], bool]) -> tuple[dict[bytes, dict[str, Any]], int]:
    """Read a file of JSON lines, of which a killed writer may have left torn ones, and others anything.

    Args:
        fits: Whether a mapping is a record of this file.

    Returns:
        The records by their line, and how many other lines there are, those whose checksum is wrong among them;
        nothing of a file that is not there.
    """
    return parse_records(path.read_bytes() if path.is_file() else b"", fits)


def parse_records(content: bytes, fits: Callable[[Mapping[str, Any]], bool]) -> tuple[dict[bytes, dict[str, Any]], int]:
    """As `read_records`, of lines that were read already."""
    lines = [line for line in content.split(b"\n") if line.strip()]
    is_old = not any(SEAL_NAME in line or SEAL_END.search(line) for line in lines)  # written before lines had checksums
    records, others = {}, 0
    for line in lines:
        record = _record(line if is_old else _unsealed(line))
        if record is not None and fits(record):
            records[seal(record) if is_old else line] = record
        else:
            others += 1
    return records, others


def seal(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line of JSON that ends with its checksum, `"crc32"`, by which a flipped bit is noticed."""
    line = json.dumps(record).encode()
    return line[:-1] + b', "crc32": "%08x"}' % zlib.crc32(line)


def _unsealed(line: bytes) -> bytes:
    """Return a line without its checksum; nothing where that is not right."""
    found = SEAL.fullmatch(line)
    return b"" if found is None or int(found[2], 16) != zlib.crc32(found[1] + b"}") else found[1] + b"}"


class Records:
    """A file of JSON lines with checksums that goes on growing; where it cannot be written, lines wait until it can.

    Args:
        path: The file; missing folders are not made.
        tell: What is said once when lines begin to wait, and once when they are written.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]):
        self.path = path
        self._tell = tell
        self._waiting: list[bytes] = []

    @property
    def num_waiting(self) -> int:
        """Lines that could not be written yet."""
        return len(self._waiting)

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records, and those that wait."""
        was_waiting = bool(self._waiting)
        self._waiting += [seal(record) + b"\n" for record in records]
        if not self._waiting:
            return
        try:
            _append(self.path, b"".join(self._waiting))
        except OSError as error:
            if not was_waiting:
                self._tell(f"{self.path} cannot be written ({error}); its lines wait, the run goes on")
            return
        self._waiting.clear()
        if was_waiting:
            self._tell(f"{self.path} is written again; no line is lost")


def _append(path: Path, content: bytes) -> None:
    """Append all or nothing.

    Raises:
        OSError: The file cannot be written; it ends where it did, unless not even that can be had.
    """
    with path.open("ab", buffering=0) as file:
        end, rest = file.seek(0, os.SEEK_END), memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_open_at(path: Path, handle: int) -> bool:
    """Whether a descriptor is that of the file which has this name now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
