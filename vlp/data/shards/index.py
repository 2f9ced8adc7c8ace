"""The index of a tar: where each sample lies, in a file that is read a few bytes at a time.

Little endian: a record per sample and one past the last, a record per member, the keys, a footer in JSON, its length,
the CRC-32 of all these, and a magic word. No more than the footer is held in memory, and an index with checksums of
members differs from one without in these, in footer and CRC alone, so that one may take the place of the other under a
running process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.data.shards.open_files import OpenFiles
from vlp.data.shards.tar import Member, Scan, Trouble, scan_tar

SUFFIX = ".index"
VERSION = 2
MAGIC = b"VLPINDEX"
TRAILER = struct.Struct("<qI8s")
SAMPLE = struct.Struct("<qq")  # first member, first byte of the key
MEMBER = struct.Struct("<qqII")  # offset, size, checksum, extension
ROW = np.dtype([("offset", "<i8"), ("size", "<i8"), ("checksum", "<u4"), ("kind", "<u4")])
LAST_BYTES = 4096  # hold trailer and footer of nearly every index
CHUNK = 1 << 20
UNREADABLE: tuple[Trouble, ...] = ("", "sparse", "link")  # by the offset of a member that cannot be read, negative

# WebDataset's rule: the key is the path up to the first dot of the base name, the rest is the extension.
KEY_AND_EXTENSION = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)


@dataclass(frozen=True)
class Footer:
    """What an index says about its tar as a whole.

    Args:
        extensions: Lower-case extensions without the first dot.
        fault: Why the tar could not be read to its end; empty for a sound one.
        lost: How many samples the fault may have cost, judged by the bytes that could not be understood.
        tar_bytes: Size of the tar.
        tar_mtime_ns: When the tar changed last.
        tar_sha256: Checksum of the tar; empty where members have no checksums either.
    """

    samples: int
    members: int
    extensions: tuple[str, ...]
    fault: str
    lost: int
    tar_bytes: int
    tar_mtime_ns: int
    tar_sha256: str

    @property
    def has_checksums(self) -> bool:
        """Whether somebody has read all bytes of the tar."""
        return bool(self.tar_sha256)


@dataclass(frozen=True)
class Entry:
    """One member of a sample.

    Args:
        checksum: CRC-32 of its data; None where nobody has read them.
    """

    extension: str
    offset: int
    size: int
    checksum: int | None

    @property
    def trouble(self) -> Trouble:
        """Why its data cannot be read as they lie in the tar."""
        return UNREADABLE[-self.offset] if self.offset < 0 else ""


class Index:
    """Random access to the records of an index.

    Args:
        footer: What it says about the whole tar.
        path: The file of the index.
        files: Open files.
        content: The whole index, where it could not be written to a file.
    """

    def __init__(self, footer: Footer, path: Path, files: OpenFiles, content: bytes | None = None):
        self.footer = footer
        self.path = path
        self._files = files
        self._content = content

    def __len__(self) -> int:
        return self.footer.samples

    def members(self, place: int) -> Iterator[Entry]:
        """Yield the members of a sample in the order of the tar."""
        (first, _), (end, _) = self._bounds(place)
        data = self._bytes(self._members_start + first * MEMBER.size, (end - first) * MEMBER.size)
        for offset, size, checksum, kind in MEMBER.iter_unpack(data):
            known = self.footer.has_checksums and offset >= 0
            yield Entry(self.footer.extensions[kind], offset, size, checksum if known else None)

    def key(self, place: int) -> str:
        """Return the key of a sample; bytes that are no UTF-8 as `\\xff`, so that every table and screen takes it."""
        (_, first), (_, end) = self._bounds(place)
        start = self._members_start + self.footer.members * MEMBER.size
        return self._bytes(start + first, end - first).decode("utf-8", "backslashreplace")

    def structure_sha256(self) -> str:
        """Return a checksum of keys, places and sizes, which is the same for an index with checksums of members."""
        members = self._bytes(self._members_start, self.footer.members * MEMBER.size)
        rows = np.frombuffer(members, dtype=ROW).copy()
        rows["checksum"] = 0
        keys_start = self._members_start + self.footer.members * MEMBER.size
        (_, keys_end), *_ = SAMPLE.iter_unpack(self._bytes(self._members_start - SAMPLE.size, SAMPLE.size))
        told = json.dumps([self.footer.extensions, self.footer.fault]).encode()
        samples, keys = self._bytes(0, self._members_start), self._bytes(keys_start, keys_end)
        return hashlib.sha256(b"".join([samples, rows.tobytes(), keys, told])).hexdigest()

    @property
    def _members_start(self) -> int:
        return (self.footer.samples + 1) * SAMPLE.size

    def _bounds(self, place: int) -> tuple[tuple[int, int], tuple[int, int]]:
        here, after = SAMPLE.iter_unpack(self._bytes(place * SAMPLE.size, 2 * SAMPLE.size))
        return here, after

    def _bytes(self, offset: int, size: int) -> bytes:
        if self._content is not None:
            return self._content[offset : offset + size]
        data = self._files.read(self.path, offset, size)
        if len(data) != size:
            raise FileNotFoundError(f"{self.path} ends at byte {offset + len(data)}")
        return data


def open_index(path: Path, files: OpenFiles) -> Index | None:
    """Return the index in a file, or None where there is no sound one of this version."""
    try:
        size = files.size(path)
        last = files.read(path, max(0, size - LAST_BYTES), LAST_BYTES)
        length, checksum, magic = TRAILER.unpack(last[-TRAILER.size :])
        if magic != MAGIC or not 0 < length < size:
            return None
        if checksum != _checksum(_chunks(path, files, size - TRAILER.size), length):
            return None
        start = size - TRAILER.size - length
        text = last[-TRAILER.size - length : -TRAILER.size] if size - start <= len(last) else None
        values = json.loads(files.read(path, start, length) if text is None else text)
        footer = _footer(values)
        if footer is None or (footer.samples + 1) * SAMPLE.size + footer.members * MEMBER.size > start:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
    return Index(footer, path, files)


def index_in_memory(content: bytes) -> Index:
    """Return an index of bytes that `build_index` made."""
    length, _, _ = TRAILER.unpack(content[-TRAILER.size :])
    footer = _footer(json.loads(content[-TRAILER.size - length : -TRAILER.size]))
    assert footer is not None
    return Index(footer, Path(), OpenFiles(), content)


def build_index(tar: Path, fault: str = "", *, checksums: bool = False) -> bytes:
    """Return the index of a tar.

    Args:
        tar: A plain tar.
        fault: What stopped whoever unpacked it.
        checksums: Whether to read all bytes, for the CRC-32 of each member and the SHA-256 of the tar.

    Raises:
        OSError: It cannot be read.
    """
    status = tar.stat()
    scan = scan_tar(tar)
    keys, starts, rows, extensions = _lay_out(_group(scan))
    if checksums:
        _add_checksums(tar, rows)
    names = [key.encode("utf-8", "surrogateescape") for key in keys]
    ends = np.cumsum([0, *map(len, names)])
    samples = np.stack([np.array([*starts, len(rows)], dtype="<i8"), ends.astype("<i8")], axis=1)
    footer = Footer(
        samples=len(keys),
        members=len(rows),
        extensions=tuple(extensions),
        fault=fault or scan.fault,
        lost=_estimate_lost(scan, len(keys), status.st_size) if fault or scan.fault else 0,
        tar_bytes=status.st_size,
        tar_mtime_ns=status.st_mtime_ns,
        tar_sha256=_sha256(tar) if checksums else "",
    )
    text = json.dumps({"version": VERSION, **asdict(footer)}).encode()
    content = b"".join([samples.tobytes(), rows.tobytes(), *names, text])
    return content + TRAILER.pack(len(text), _checksum([content], len(text)), MAGIC)


def _footer(values: dict[str, Any]) -> Footer | None:
    if values.pop("version") != VERSION:
        return None
    return Footer(**{**values, "extensions": tuple(values["extensions"])})


def _chunks(path: Path, files: OpenFiles, size: int) -> Iterator[bytes]:
    for start in range(0, size, CHUNK):
        yield files.read(path, start, min(CHUNK, size - start))


def _checksum(chunks: Iterable[bytes], length: int) -> int:
    """Return the CRC-32 of some bytes and of the length of the footer among them."""
    found = zlib.crc32(length.to_bytes(8, "little"))
    for chunk in chunks:
        found = zlib.crc32(chunk, found)
    return found


@dataclass
class _Group:
    """The members of one sample."""

    key: str
    members: list[tuple[str, Member]] = field(default_factory=list)

    def has(self, extension: str) -> bool:
        return any(extension == known for known, _ in self.members)


def _group(scan: Scan) -> list[_Group]:
    """Put members with the same key into samples; drop the sample that the file's end cuts in two.

    Members of a key that comes back later belong to the sample of that key, for reading is random access; where the
    sample has such a member already, they begin another one, as where tars with the same keys were put together.
    """
    groups: list[_Group] = []
    newest: dict[str, _Group] = {}
    for member in scan.members:
        match = KEY_AND_EXTENSION.fullmatch(member.name)
        if not match:
            continue
        key, extension = match.group(1), match.group(2).lower()
        group = newest.get(key)
        if group is None or (group is not groups[-1] and group.has(extension)):
            group = newest[key] = _Group(key)
            groups.append(group)
        group.members.append((extension, member))
    cut = KEY_AND_EXTENSION.fullmatch(scan.cut)
    return [group for group in groups if not (cut and group is newest.get(cut.group(1)))]


def _lay_out(groups: Sequence[_Group]) -> tuple[list[str], list[int], NDArray[np.void], dict[str, int]]:
    """Return keys, number of the first member, members and extensions of samples."""
    keys, starts = [group.key for group in groups], []
    rows: list[tuple[int, int, int, int]] = []
    extensions: dict[str, int] = {}
    for group in groups:
        starts.append(len(rows))
        for extension, member in group.members:
            offset = -UNREADABLE.index(member.trouble) or member.offset
            rows.append((offset, member.size, 0, extensions.setdefault(extension, len(extensions))))
    return keys, starts, np.array(rows, dtype=ROW), extensions


def _estimate_lost(scan: Scan, samples: int, total: int) -> int:
    """Return how many samples of the same size may lie in what could not be understood, at least one."""
    return max(1, round(samples * (total - scan.end) / scan.end)) if scan.end else 1


def _add_checksums(tar: Path, rows: NDArray[np.void]) -> None:
    descriptor = os.open(tar, os.O_RDONLY)
    try:
        for row in rows:
            if row["offset"] < 0:
                continue
            row["checksum"] = zlib.crc32(os.pread(descriptor, int(row["size"]), int(row["offset"])))
    finally:
        os.close(descriptor)


def _sha256(tar: Path) -> str:
    with tar.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
