"""WebDataset shards as random-access lists of samples: an index per tar, members read where they lie."""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vlp.data.cache import cache_path, write_beside
from vlp.data.faults import BadSampleError
from vlp.data.files import OpenFiles
from vlp.data.tar import Scan, scan_tar
from vlp.types import RecipeError

# WebDataset's rule: the key is the path up to the first dot of the base name, the rest is the extension.
KEY_AND_EXTENSION = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
ZIPPED = (".tar.gz", ".tgz")
GZIP = 31  # zlib's word for a 32 KB window and a gzip header
CHUNK = 1 << 14  # a fault loses what its chunk holds


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of one tar lie.

    Args:
        names: Keys of all samples, joined by NUL.
        starts: First member of each sample, and the number of members at the end.
        offsets: Byte where each member's data starts.
        sizes: Bytes of each member.
        kinds: Number of each member's extension.
        extensions: Lower-case extensions without the first dot.
        fault: Why the shard could not be read to its end; empty for a sound one.
    """

    names: NDArray[np.uint8]
    starts: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    kinds: NDArray[np.uint16]
    extensions: tuple[str, ...]
    fault: str

    def __len__(self) -> int:
        return len(self.starts) - 1

    def key(self, place: int) -> str:
        """Return the key of a sample."""
        return self.names.tobytes().decode("utf-8", "surrogateescape").split("\0")[place]


class Shard:
    """One tar file on a local disk.

    Args:
        path: A tar, or a tar.gz that is unpacked into the cache once.
        files: Open files, shared by the shards of a run.
    """

    def __init__(self, path: Path, files: OpenFiles):
        self.path = path
        self.tar, self.index = _index_of(path)
        self._files = files

    def __len__(self) -> int:
        return len(self.index)

    def members(self, place: int) -> dict[str, tuple[int, int]]:
        """Map the extensions of a sample to offset and size.

        Raises:
            BadSampleError: An extension stands twice, so that nobody can say which members belong together.
        """
        found: dict[str, tuple[int, int]] = {}
        for member in range(self.index.starts[place], self.index.starts[place + 1]):
            extension = self.index.extensions[self.index.kinds[member]]
            if extension in found:
                raise BadSampleError("duplicate_key", f"two members '.{extension}' in one sample")
            found[extension] = int(self.index.offsets[member]), int(self.index.sizes[member])
        return found

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the tar.

        Raises:
            BadSampleError: The file has vanished or shrunk since it was indexed.
        """
        try:
            data = self._files.read(self.tar, offset, size)
        except OSError as error:
            raise BadSampleError("shard_error", f"{self.path}: {error.strerror}") from error
        if len(data) != size:
            raise BadSampleError("shard_error", f"{self.path} ends at byte {offset + len(data)}")
        return data


def _index_of(path: Path) -> tuple[Path, ShardIndex]:
    """Return the plain tar of a shard and its index, from the cache where it has one."""
    cached = cache_path(path, ".npz")
    zipped = path.name.endswith(ZIPPED)
    tar = cache_path(path, ".tar") if zipped else path
    if tar.exists() and (index := _load(cached)):
        return tar, index
    fault = _unzip(path, tar) if zipped else ""
    index = _group(scan_tar(tar), fault)
    # A cache that cannot be written costs the next start a scan, nothing else.
    with contextlib.suppress(OSError), write_beside(cached) as file:
        np.savez(file, **{**vars(index), "extensions": _pack(index.extensions), "fault": _pack([index.fault])})
    return tar, index


def _load(path: Path) -> ShardIndex | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = dict(arrays)
        values |= {"extensions": tuple(_unpack(values["extensions"])), "fault": _unpack(values["fault"])[0]}
        return ShardIndex(**values)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error, zipfile.BadZipFile):
        return None


def _unzip(path: Path, tar: Path) -> str:
    """Unpack as much of a tar.gz as can be read; return what stopped it."""
    try:
        with path.open("rb") as source, write_beside(tar) as target:
            return _inflate(source, target)
    except OSError as error:
        raise RecipeError(
            f"cannot unpack {path} into {tar.parent} ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder with room, or use plain tar shards"
        ) from error


def _inflate(source: BinaryIO, target: BinaryIO) -> str:
    """Copy what a gzip stream holds; unlike the gzip module, keep everything before a fault."""
    inflater = zlib.decompressobj(wbits=GZIP)
    while chunk := source.read(CHUNK):
        while chunk:
            if inflater.eof:
                inflater = zlib.decompressobj(wbits=GZIP)
            try:
                target.write(inflater.decompress(chunk))
            except zlib.error as error:
                return f"broken gzip stream: {error}"
            chunk = inflater.unused_data
    return "" if inflater.eof else "broken gzip stream: it ends too early"


def _group(scan: Scan, fault: str) -> ShardIndex:
    """Turn neighbouring members with the same key into samples; drop the sample that the file's end cuts in two."""
    keys: list[str] = []
    starts: list[int] = []
    rows: list[tuple[int, int, int]] = []
    extensions: dict[str, int] = {}
    for member in scan.members:
        match = KEY_AND_EXTENSION.fullmatch(member.name)
        if not match:
            continue
        key, extension = match.group(1), match.group(2).lower()
        if not keys or key != keys[-1]:
            keys.append(key)
            starts.append(len(rows))
        rows.append((member.offset, member.size, extensions.setdefault(extension, len(extensions))))
    cut = KEY_AND_EXTENSION.fullmatch(scan.cut)
    if keys and cut and cut.group(1) == keys[-1]:
        keys.pop()
        del rows[starts.pop() :]
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return ShardIndex(
        names=_pack(keys),
        starts=np.array([*starts, len(rows)], dtype=np.int64),
        offsets=table[:, 0],
        sizes=table[:, 1],
        kinds=table[:, 2].astype(np.uint16),
        extensions=tuple(extensions),
        fault=fault or scan.fault,
    )


def _pack(texts: list[str] | tuple[str, ...]) -> NDArray[np.uint8]:
    return np.frombuffer("\0".join(texts).encode("utf-8", "surrogateescape"), dtype=np.uint8)


def _unpack(data: NDArray[np.uint8]) -> list[str]:
    return data.tobytes().decode("utf-8", "surrogateescape").split("\0")
