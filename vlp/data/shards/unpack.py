"""Unpack a compressed tar as far as it can be read; the content says how it was packed, not the name."""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from vlp.ground.files import write_whole

GZIP = 31  # zlib's word for a 32 KB window and a gzip header
CHUNK = 1 << 14  # a fault loses what its chunk holds
MAGIC = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd"}
SUFFIXES = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst")  # of a file that nobody has looked into yet
UNPACKERS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=GZIP),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
    "zstd": lambda: importlib.import_module("zstandard").ZstdDecompressor().decompressobj(),
}


def packing(path: Path) -> str:
    """Return how a file was compressed, one of MAGIC; empty for any other content.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(8)
    return next((name for name, magic in MAGIC.items() if head.startswith(magic)), "")


def unpack(path: Path, tar: Path) -> str:
    """Unpack as much as can be read; return what stopped it.

    Raises:
        OSError: One of the files cannot be read or written.
    """
    kind = packing(path)
    with path.open("rb") as source, write_whole(tar) as target:
        try:
            return _inflate(source, target, UNPACKERS[kind]) if kind else "not a compressed tar"
        except ImportError:
            return f"packed with {kind}: pip install zstandard, or unpack it"


def _inflate(source: BinaryIO, target: BinaryIO, begin: Callable[[], Any]) -> str:
    """Copy what a compressed stream holds; unlike the modules for that, keep everything before a fault."""
    unpacker = begin()
    while chunk := source.read(CHUNK):
        while chunk:
            if unpacker.eof:
                unpacker = begin()
            try:
                content = unpacker.decompress(chunk)
            except Exception as error:  # zlib.error, OSError, LZMAError, ZstdError
                return f"broken compressed stream: {error}"
            target.write(content)
            chunk = unpacker.unused_data
    return "" if unpacker.eof else "broken compressed stream: it ends too early"
