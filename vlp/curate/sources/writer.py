"""Shards that depend on their samples alone: no times, no owners; written beside, synced, renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from webdataset import TarWriter

from vlp.data.shards.tar import BLOCK

PARTIAL = ".partial"


@dataclass(frozen=True)
class Written:
    """A finished shard."""

    name: str
    samples: int
    bytes: int
    sha256: str


class ShardWriter:
    """Writes the samples of one unit: a shard, and further ones where it would grow too large.

    Args:
        folder: Where the shards belong.
        stem: Name of the first shard without `.tar`; further ones get `_001`, `_002`.
        max_bytes: Largest sum of members and their headers in one shard; a single larger sample has one of its own.
    """

    def __init__(self, folder: Path, stem: str, max_bytes: int):
        self.folder = folder
        self.stem = stem
        self.max_bytes = max_bytes
        self.written: list[Written] = []
        self._open: _OpenShard | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is None:
            return
        if kind is None:
            self.written.append(self._open.finish())
        else:
            self._open.abandon()

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a sample."""
        size = sum(BLOCK + -(-len(data) // BLOCK) * BLOCK for data in members.values())
        if self._open is not None and self._open.size + size > self.max_bytes:
            self.written.append(self._open.finish())
            self._open = None
        if self._open is None:
            part = f"_{len(self.written):03d}" if self.written else ""
            self._open = _OpenShard(self.folder / f"{self.stem}{part}.tar")
        self._open.write(key, members, size)


class _OpenShard:
    def __init__(self, path: Path):
        self.path = path
        self.size = 0
        self.samples = 0
        self._file = _HashedFile(path.with_name(path.name + PARTIAL).open("wb"))
        self._tar = TarWriter(self._file, user="", group="", encoder=False, mtime=0)

    def write(self, key: str, members: Mapping[str, bytes], size: int) -> None:
        self._tar.write({"__key__": key, **members})
        self.size += size
        self.samples += 1

    def finish(self) -> Written:
        self._tar.close()
        num_bytes = self._file.tell()
        self._file.sync_and_close()
        self.path.with_name(self.path.name + PARTIAL).replace(self.path)
        return Written(self.path.name, self.samples, num_bytes, self._file.sha256.hexdigest())

    def abandon(self) -> None:
        self._file.file.close()
        self.path.with_name(self.path.name + PARTIAL).unlink(missing_ok=True)


class _HashedFile:
    """The checksum is taken of what is written, not of what is read back."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell()

    def sync_and_close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
