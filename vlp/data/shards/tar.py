"""Where the members of a tar file lie: a scan of its headers that survives broken files and says what broke."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

BLOCK = 512
RECORD = 20 * BLOCK  # tar programs fill the end of a file up to a multiple of it
CHUNK = 1 << 20
LARGEST_NAME = 1 << 20
MOST_LINKS = 10  # one after the other, before they count as a circle

REGULAR = (b"0", b"\0", b"7")
LINKS = (b"1", b"2")
# Links, devices, folders and pipes: whatever size their header tells, no data follow.
EMPTY = (*LINKS, b"3", b"4", b"5", b"6")
SPARSE = b"S"
MAP_GOES_ON = 504  # byte of a block of a sparse map that says whether another one follows
NAMES = (b"L", b"K", b"x", b"X")

Trouble = Literal["", "sparse", "link"]


@dataclass(frozen=True)
class Member:
    """A file inside a tar.

    Args:
        name: Its path in the tar.
        offset: First byte of its data.
        size: Bytes of its data.
        trouble: Why its data cannot be read as they lie there: it is `sparse`, or a `link` to what is not in the tar.
    """

    name: str
    offset: int
    size: int
    trouble: Trouble = ""


@dataclass
class Scan:
    """What a scan found.

    Args:
        members: Complete files, in order.
        fault: What ended the scan too early, or lies between the members; empty for a sound tar.
        cut: Name of the member in whose data the file ends.
        end: Byte up to which the file could be understood.
    """

    members: list[Member] = field(default_factory=list)
    fault: str = ""
    cut: str = ""
    end: int = 0


OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS: run git lfs pull",
    b"pk\3\4": "a zip archive: unpack it, then vlp data pack FOLDER",
    b"par1": "a parquet file: vlp data pack FILE",
    b"<": "a web page: fetch the shard again",
    b"{": "JSON: fetch the shard again",
}


class BrokenHeaderError(ValueError):
    """Bytes that are no tar header."""


class BrokenTarError(Exception):
    """A place behind which nothing can be read."""


@dataclass(frozen=True)
class _Header:
    name: str
    size: int
    kind: bytes
    link: str
    has_map: bool


def scan_tar(path: Path) -> Scan:
    """Read the headers of a tar file (ustar, GNU and pax) up to its end or its first fault.

    Tars that were put behind one another are read to the end of the last one. Links to members stand for what they
    point to.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _Scanner(descriptor, os.fstat(descriptor).st_size).scan()
    finally:
        os.close(descriptor)


class _Scanner:
    """Walks from header to header."""

    def __init__(self, descriptor: int, total: int):
        self.descriptor = descriptor
        self.total = total
        self.found = Scan()
        self.links: list[tuple[int, str, str]] = []  # place among the members, name, target

    def scan(self) -> Scan:
        """Return what the tar holds."""
        offset = 0
        special: dict[str, str] = {}
        try:
            while True:
                self.found.end = offset
                block = self._read(offset, BLOCK)
                if len(block) < BLOCK:
                    raise BrokenTarError(_describe_end(offset, block))
                if block.strip(b"\0"):
                    offset = self._behind_member(block, offset, special)
                    continue
                special.clear()
                offset = self._behind_zeros(offset)
                if offset == self.total:
                    break
        except BrokenTarError as error:
            self._say(str(error))
        else:
            self.found.end = self.total
        self._resolve_links()
        return self.found

    def _behind_member(self, block: bytes, offset: int, special: dict[str, str]) -> int:
        """Take one header and return where the next one is.

        Args:
            special: What headers before said of this member; emptied once that is used.
        """
        try:
            header = _parse_header(block)
            size = 0 if header.kind in EMPTY else int(special.get("size", header.size))
            if size < 0:
                raise BrokenHeaderError
        except ValueError:
            raise BrokenTarError(f"broken header at byte {offset}" if offset else _not_a_tar(block)) from None
        name = special.get("sparse") or special.get("path", header.name)
        start = self._behind_map(offset + BLOCK) if header.has_map else offset + BLOCK
        if start + size > self.total:
            self.found.cut = name
            raise BrokenTarError(f"cut off inside '{name}' at byte {self.total}")
        if header.kind in NAMES:
            special |= _read_special(self._read(start, min(size, LARGEST_NAME)), header.kind)
        elif header.kind != b"g":
            self._add(Member(name, start, size), header, special)
            special.clear()
        return start + -(-size // BLOCK) * BLOCK

    def _behind_map(self, offset: int) -> int:
        """Return where the data of a sparse member begin whose map goes on in blocks of its own."""
        while (flag := self._read(offset + MAP_GOES_ON, 1)) and flag != b"\0":
            offset += BLOCK
        return offset + BLOCK

    def _add(self, member: Member, header: _Header, special: dict[str, str]) -> None:
        if header.kind == SPARSE or (header.kind in REGULAR and "sparse" in special):
            self.found.members.append(replace(member, size=0, trouble="sparse"))
        elif header.kind in REGULAR:
            self.found.members.append(member)
        elif header.kind in LINKS:
            target = special.get("link", header.link)
            if header.kind == b"2":  # relative to the folder in which the link lies
                target = posixpath.join(posixpath.dirname(member.name), target)
            self.links.append((len(self.found.members), member.name, target))
            self.found.members.append(replace(member, trouble="link"))

    def _behind_zeros(self, start: int) -> int:
        """Return where the next header is; the end of the file where there is none."""
        offset = self._first_byte(start)
        zeros = offset - start
        if offset == self.total:
            if zeros < 2 * BLOCK:
                raise BrokenTarError(f"half an end-of-archive mark at byte {start}: cut off there?")
            if zeros > RECORD + 2 * BLOCK:
                raise BrokenTarError(f"{zeros} zero bytes from byte {start} to the end: lost content?")
            return offset
        offset -= offset % BLOCK
        zeros = offset - start
        try:
            _parse_header(self._read(offset, BLOCK))
        except ValueError:
            raise BrokenTarError(f"{zeros} zero bytes at byte {start}, and no header behind them") from None
        if zeros < 2 * BLOCK or offset % RECORD:  # tars that were put together end on whole records
            self._say(f"{zeros} zero bytes at byte {start}, between two members")
        return offset

    def _first_byte(self, offset: int) -> int:
        """Return where the first byte lies that is not zero."""
        while chunk := self._read(offset, CHUNK):
            rest = chunk.lstrip(b"\0")
            offset += len(chunk) - len(rest)
            if rest:
                break
        return offset

    def _resolve_links(self) -> None:
        names = {_plain(member.name): member for member in self.found.members}
        targets = {_plain(name): _plain(target) for _, name, target in self.links}
        for place, name, target in self.links:
            end = _plain(target)
            for _ in range(MOST_LINKS):
                end = targets.get(end, end)
            member = names.get(end)
            if member is not None and member.trouble != "link":
                self.found.members[place] = replace(member, name=name)

    def _say(self, fault: str) -> None:
        self.found.fault = self.found.fault or fault

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)


def _plain(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _not_a_tar(block: bytes) -> str:
    """Say what people have instead of a tar."""
    kind = next((words for start, words in OTHERS.items() if block.lower().startswith(start)), "")
    return "not a tar file" + (f" but {kind}" if kind else "")


def _describe_end(offset: int, rest: bytes) -> str:
    if not offset:
        return _not_a_tar(rest) if rest else "empty file"
    if rest:
        return f"cut off inside a header at byte {offset + len(rest)}"
    return f"no end-of-archive mark at byte {offset}: cut off between two members?"


def _parse_header(block: bytes) -> _Header:
    # The checksum counts its own eight bytes as spaces.
    if len(block) < BLOCK or sum(block) - sum(block[148:156]) + 8 * 32 != _number(block[148:156]):
        raise BrokenHeaderError
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    kind = block[156:157]
    return _Header(name, _number(block[124:136]), kind, _text(block[157:257]), kind == SPARSE and block[482] != 0)


def _number(field: bytes) -> int:
    """Read an octal number, or a binary one (GNU, first bit set)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")


PAX = {b"path": "path", b"size": "size", b"linkpath": "link", b"GNU.sparse.name": "sparse"}


def _read_special(data: bytes, kind: bytes) -> dict[str, str]:
    """Read what a GNU long-name or pax record says about the next member."""
    if kind in (b"L", b"K"):
        return {"path" if kind == b"L" else "link": _text(data)}
    values: dict[str, str] = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or len(length) > 10 or int(length) <= len(length) + 1:
            break
        key, _, value = data[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        if key in PAX:
            values[PAX[key]] = value.decode("utf-8", "surrogateescape")
        elif key.startswith(b"GNU.sparse."):
            values.setdefault("sparse", values.get("path", ""))
        data = data[int(length) :]
    return values
