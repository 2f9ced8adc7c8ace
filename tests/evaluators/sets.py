"""Small evaluation sets on disk, and a model without weights that sees pixels and reads words."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlp.evaluators.base import Task
from vlp.evaluators.dataset import DataSource, EvaluationSet, open_set

Member = tuple[str, bytes]


class HashEncoder:
    """Deterministic embeddings: a random projection of pixels, and the sum of a random row per word.

    The last bits of a row depend on the size of its batch, as they do in a real model.
    """

    def __init__(self, width: int = 16):
        self.width = width
        self.scale = 100.0
        self.projection = torch.randn(192, width, generator=torch.Generator().manual_seed(0))
        self.num_images = 0
        self.texts: list[str] = []

    def embed_images(self, images: Iterable[Image.Image]) -> Tensor:
        pixels = torch.stack([_pixels(image) for image in images])
        self.num_images += len(pixels)
        return unit(pixels @ self.projection + 1e-6 * len(pixels))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        self.texts += texts
        rows = torch.stack([sum(_row(word, self.width) for word in text.split()) for text in texts])
        return unit(rows + 1e-6 * len(rows))

    def locate_captions(self, images: Iterable[Image.Image], captions: Sequence[str]) -> Tensor:
        rows = torch.stack(
            [_pixels(image)[:4] + _row(caption, 4) for image, caption in zip(images, captions, strict=True)]
        )
        corners = rows.sigmoid().view(-1, 2, 2).sort(dim=1).values
        return corners.flatten(1)

    @property
    def ungated(self) -> HashEncoder:
        """Itself, whose filters are of its own embeddings."""
        return self

    def text_gates(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([_row(text, self.width) for text in texts]).sigmoid()


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def _pixels(image: Image.Image) -> Tensor:
    return torch.tensor(np.asarray(image.resize((8, 8)))).float().reshape(-1) / 255 - 0.5


def _row(word: str, width: int) -> Tensor:
    seed = int(hashlib.sha256(word.encode()).hexdigest()[:8], 16)
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def draw_image(seed: int, size: int = 12) -> bytes:
    """Return a PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: Sequence[Member]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_classes(root: Path, labels: Sequence[int] = (0, 1, 2, 0, 1), num_shards: int = 2) -> Path:
    """Write a classification set of three classes; sample i goes into shard i % num_shards."""
    (root / "test").mkdir(parents=True)
    (root / "classnames.txt").write_text("red cat\ngreen dog\nblue bird\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}\n")
    _write_shards(root, [(i, "cls", str(label).encode()) for i, label in enumerate(labels)], num_shards)
    return root


def write_captions(root: Path, captions: Sequence[Sequence[str]] | None = None, num_shards: int = 1) -> Path:
    """Write a retrieval set; by default 40 images with one to three captions."""
    captions = captions or [[f"word{i} number{k}" for k in range(i % 3 + 1)] for i in range(40)]
    (root / "test").mkdir(parents=True)
    (root / "dataset_type.txt").write_text("retrieval\n")
    _write_shards(root, [(i, "txt", "\n".join(texts).encode()) for i, texts in enumerate(captions)], num_shards)
    return root


def write_regions(card: Path, parts: Sequence[Sequence[tuple[Sequence[float], str]]], **told: object) -> Path:
    """Write a card of training, and one shard: for each image the boxes of its regions, with captions."""
    members: list[Member] = []
    for number, listed in enumerate(parts):
        record = {"caption": "all", "regions": [{"box": list(box), "caption": caption} for box, caption in listed]}
        members += [(f"s{number:07d}.png", draw_image(number)), (f"s{number:07d}.json", json.dumps(record).encode())]
    write_tar(card.with_suffix(".tar"), members)
    keys = {
        "name": card.stem,
        "shards": f"{card.stem}.tar",
        "captions": {"json.caption": 1.0},
        "regions": "json.regions",
    }
    card.write_text(json.dumps(keys | told))  # which is YAML as well
    return card


def _write_shards(root: Path, rows: Sequence[tuple[int, str, bytes]], num_shards: int) -> None:
    (root / "test" / "nshards.txt").write_text(f"{num_shards}\n")
    for shard in range(num_shards):
        members: list[Member] = []
        for number, suffix, label in rows[shard::num_shards]:
            members += [(f"s{number:07d}.png", draw_image(number)), (f"s{number:07d}.{suffix}", label)]
        write_tar(root / "test" / f"{shard}.tar", members)


def opened(root: Path) -> EvaluationSet:
    return open_set(DataSource(root=str(root)))


def task_on(root: Path, evaluator: str, main_metric: str, **data: object) -> Task:
    mapping = {
        "version": 1,
        "evaluator": evaluator,
        "main_metric": main_metric,
        "data": {"root": str(root), **data},
    }
    return Task.from_mapping(root.name, mapping, "a test")
