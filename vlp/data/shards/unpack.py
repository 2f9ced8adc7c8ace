"""Unpack a tar.gz as far as it can be read."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

from vlp.files import write_whole

ZIPPED = (".tar.gz", ".tgz")
GZIP = 31  # zlib's word for a 32 KB window and a gzip header
CHUNK = 1 << 14  # a fault loses what its chunk holds


def unpack(path: Path, tar: Path) -> str:
    """Unpack as much as can be read; return what stopped it.

    Raises:
        OSError: One of the files cannot be read or written.
    """
    with path.open("rb") as source, write_whole(tar) as target:
        return _inflate(source, target)


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
