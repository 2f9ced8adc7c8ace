"""Real WebDataset shards, small enough for a test."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlp.data import Card

SUFFIXES = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
Members = list[tuple[str, bytes]]


def image_bytes(number: int, extension: str = "jpg", width: int = 24, height: int = 20) -> bytes:
    """Return an encoded image of noise; the same number gives the same image."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, SUFFIXES[extension], **({"lossless": True} if extension == "webp" else {}))
    return file.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises many pixels and holds few."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1 << 16)))


def sample_members(number: int, extension: str = "jpg") -> Members:
    """Return the members of one good sample: an image, a text and a record with two captions."""
    record = {"caption": f"record {number}", "alt": [f"first alt {number}", f"second alt {number}"]}
    return [
        (f"{number:06d}.{extension}", image_bytes(number, extension)),
        (f"{number:06d}.txt", f"caption {number}, tag, other tag, third tag".encode()),
        (f"{number:06d}.json", json.dumps(record).encode()),
    ]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar, or a tar.gz when the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_shards(
    folder: Path,
    num_shards: int = 2,
    samples_per_shard: int = 8,
    *,
    formats: Sequence[str] = ("jpg", "jpeg", "png", "webp"),
    suffix: str = "tar",
    replace: dict[int, Members] | None = None,
) -> Card:
    """Write shards of good samples and return their card; sample ids count through all shards.

    Args:
        formats: Image formats, used in turn.
        suffix: `tar` or `tar.gz`.
        replace: Members to write instead of those of a good sample, by sample id.
    """
    for shard in range(num_shards):
        numbers = range(shard * samples_per_shard, (shard + 1) * samples_per_shard)
        members = [
            member
            for number in numbers
            for member in (replace or {}).get(number, sample_members(number, formats[number % len(formats)]))
        ]
        write_tar(folder / f"{shard:05d}.{suffix}", members)
    return Card(name=folder.name, shards=f"*.{suffix}", folder=folder)


class LetterTokenizer:
    """One token per letter and an end token, 0; padded with 0."""

    context_length = 32
    pad_id = 0

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [[*text.encode()[: self.context_length - 1], 0] for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
        return tokens, lengths
