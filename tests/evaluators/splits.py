"""Classification sets with several splits, whose images look a little like their class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.evaluators.sets import HashEncoder, Member, write_tar

NAMES = ("red cat", "green dog", "blue bird")


def paint(label: int, seed: int) -> bytes:
    """Return a PNG of noise around the colour of a class."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 200, (12, 12, 3)).astype(np.uint8)
    pixels[:, :, label % 3] += 30
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_splits(root: Path, names: Sequence[str] = NAMES, **splits: Sequence[int]) -> Path:
    """Write one shard per split: the classes of its samples by its name."""
    root.mkdir()
    (root / "classnames.txt").write_text("".join(f"{name}\n" for name in names))
    for place, (split, labels) in enumerate(splits.items()):
        members: list[Member] = []
        for number, label in enumerate(labels):
            members += [
                (f"s{number:05d}.png", paint(label, 10_000 * place + number)),
                (f"s{number:05d}.cls", str(label).encode()),
            ]
        write_tar(root / split / "0.tar", members)
        (root / split / "nshards.txt").write_text("1")
    return root


class FeatureHashEncoder(HashEncoder):
    """Also has features before its projection: the rows before they are brought to unit norm, and a constant."""

    def image_features(self, images):
        rows = self.embed_images(images)
        return 3 * rows.repeat(1, 2) + 1
