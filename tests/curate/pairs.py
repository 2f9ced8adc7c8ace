"""Cards of a few pairs, written as the test says."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.shards import write_tar
from vlp.data import Captions, SampleSet
from vlp.data.shards.cards import load_card
from vlp.ground.yaml import write_yaml


def photo(number: int, size: int = 64, quality: int = 90, width: int | None = None) -> bytes:
    """Return a JPEG of soft spots; the same number gives the same picture at any size and quality."""
    spots = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(spots).resize((256, 256), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.resize((width or size, size), Image.Resampling.LANCZOS).save(file, "JPEG", quality=quality)
    return file.getvalue()


def write_pairs(folder: Path, pairs: Sequence[tuple[bytes, str]], samples_per_shard: int = 3, start: int = 0) -> str:
    """Write pairs as shards with a card, and return the card's path; keys count from `start`."""
    for first in range(0, len(pairs), samples_per_shard):
        members = [
            member
            for number, (image, caption) in enumerate(pairs[first : first + samples_per_shard], start + first)
            for member in ((f"{number:06d}.jpg", image), (f"{number:06d}.txt", caption.encode()))
        ]
        write_tar(folder / "shards" / f"{start + first:06d}.tar", members)
    card = folder / "pairs.yaml"
    card.write_text(write_yaml({"name": "pairs", "shards": "shards/*.tar"}))
    return str(card)


def captions_in(card: Path | str) -> list[str]:
    """Return the captions that training would see, in order."""
    opened = load_card(str(card))
    samples = SampleSet({opened.name: opened})
    return [Captions().first(samples[number]) for number in range(len(samples))]
