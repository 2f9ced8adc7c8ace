"""Where the members of a tar file lie: a scan of its headers that survives broken files and says what broke."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 512
REGULAR = (b"0", b"\0", b"7")
LARGEST_NAME = 1 << 20


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar."""

    name: str
    offset: int
    size: int


@dataclass
class Scan:
    """What a scan found.

    Args:
        members: Complete regular files, in order.
        fault: What ended the scan too early; empty for a sound tar.
        cut: Name of the member in whose data the file ends.
    """

    members: list[Member] = field(default_factory=list)
    fault: str = ""
    cut: str = ""


class BrokenHeaderError(ValueError):
    """Bytes that are no tar header."""


def scan_tar(path: Path) -> Scan:
    """Read the headers of a tar file (ustar, GNU and pax) up to its end or its first fault."""
    scan = Scan()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _scan(descriptor, os.fstat(descriptor).st_size, scan)
    finally:
        os.close(descriptor)
    return scan


def _scan(descriptor: int, total: int, scan: Scan) -> None:
    offset = 0
    special: dict[str, str] = {}
    while True:
        header = os.pread(descriptor, BLOCK, offset)
        if len(header) < BLOCK:
            scan.fault = _describe_end(offset, len(header))
            return
        if not header.strip(b"\0"):
            return
        try:
            name, size, kind = _parse_header(header)
            size = int(special.get("size", size))
            if size < 0:
                raise BrokenHeaderError
        except ValueError:
            scan.fault = f"broken header at byte {offset}" if offset else "not a tar file"
            return
        name = special.get("path", name)
        start = offset + BLOCK
        if start + size > total:
            scan.fault, scan.cut = f"cut off inside '{name}' at byte {total}", name
            return
        if kind in (b"L", b"x"):
            special |= _read_special(os.pread(descriptor, min(size, LARGEST_NAME), start), kind)
        elif kind not in (b"K", b"g"):
            if kind in REGULAR:
                scan.members.append(Member(name, start, size))
            special = {}
        offset = start + -(-size // BLOCK) * BLOCK


def _describe_end(offset: int, rest: int) -> str:
    if offset + rest == 0:
        return "empty file"
    if rest:
        return f"cut off inside a header at byte {offset + rest}" if offset else "not a tar file"
    return f"no end-of-archive mark at byte {offset}: cut off between two members?"


def _parse_header(header: bytes) -> tuple[str, int, bytes]:
    # The checksum counts its own eight bytes as spaces.
    if sum(header) - sum(header[148:156]) + 8 * 32 != _number(header[148:156]):
        raise BrokenHeaderError
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = f"{_text(header[345:500])}/{name}"
    return name, _number(header[124:136]), header[156:157]


def _number(field: bytes) -> int:
    """Read an octal number, or a binary one (GNU, first bit set)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _read_special(data: bytes, kind: bytes) -> dict[str, str]:
    """Read what a GNU long-name or pax record says about the next member."""
    if kind == b"L":
        return {"path": _text(data)}
    values = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1:
            break
        key, _, value = data[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        if key in (b"path", b"size"):
            values[key.decode()] = value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return values
