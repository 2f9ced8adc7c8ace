"""WebDataset shards with fixed owners and times, as the sets of this folder have them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image


def write_shard(path: Path, samples: Iterable[tuple[str, bytes, str]]) -> None:
    """Write keys, WebP images and captions."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for key, image, caption in samples:
            for suffix, data in (("webp", image), ("txt", caption.encode("utf-8"))):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mtime, info.mode = len(data), 0, 0o644
                archive.addfile(info, io.BytesIO(data))


def shard_images(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of the WebP members of a shard."""
    with tarfile.open(path) as archive:
        for member in archive:
            handle = archive.extractfile(member)
            if handle is not None and member.name.endswith(".webp"):
                yield member.name, handle.read()


def encode(image: Image.Image, quality: int, method: int = 6) -> bytes:
    """Encode as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=method)
    return buffer.getvalue()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
