"""Evaluation sets of any kind on disk, and a model that says what a test wants."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.evaluators.sets import Member, draw_image, unit, write_tar
from vlp.evaluators.dataset import EvaluationSet
from vlp.ground.types import Evaluation


def vector(*numbers: int) -> bytes:
    """Return the bytes of a `KEY.npy`."""
    file = io.BytesIO()
    np.save(file, np.array(numbers, dtype=np.int64))
    return file.getvalue()


def write_set(
    root: Path,
    kind: str,
    samples: Mapping[str, Mapping[str, bytes]],
    class_names: Sequence[str] = (),
    templates: Sequence[str] = ("a {c}",),
) -> Path:
    """Write a set of one shard: by key, what stands beside each image, by extension."""
    (root / "test").mkdir(parents=True)
    (root / "dataset_type.txt").write_text(kind)
    if class_names:
        (root / "classnames.txt").write_text("".join(f"{name}\n" for name in class_names))
        (root / "zeroshot_classification_templates.txt").write_text("".join(f"{text}\n" for text in templates))
    (root / "test/nshards.txt").write_text("1")
    members: list[Member] = []
    for number, (key, labels) in enumerate(samples.items()):
        members.append((f"{key}.png", draw_image(number)))
        members += [(f"{key}.{name}", content) for name, content in labels.items()]
    write_tar(root / "test/0.tar", members)
    return root


class TableEncoder:
    """Says what a table says: rows of images in the order of the set, rows of texts by their words."""

    scale = 100.0

    def __init__(self, data: EvaluationSet, images: Tensor, texts: Mapping[str, Sequence[float]]):
        self.rows = {data.image(i).tobytes(): row for i, row in enumerate(unit(images))}
        self.words = {text: unit(torch.tensor([row], dtype=torch.float32))[0] for text, row in texts.items()}

    def embed_images(self, images: Iterable[Image.Image]) -> Tensor:
        return torch.stack([self.rows[image.tobytes()] for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.words[text] for text in texts])


def draw_rows(*shape: int, seed: int = 0) -> Tensor:
    """Return rows of unit norm."""
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def values_of(evaluation: Evaluation) -> dict[str, float]:
    return {metric.name: metric.value for metric in evaluation.metrics}


def check_samples(evaluation: Evaluation, names: Iterable[str] = ()) -> None:
    """Hold what samples add against the metrics: their mean, or the mean over groups of the means within them."""
    found = values_of(evaluation)
    assert set(names) <= set(evaluation.samples) <= set(found)
    for name, sample in evaluation.samples.items():
        values = np.array(sample.values, dtype=float)
        groups = np.zeros(len(values)) if sample.groups is None else np.array(sample.groups)
        assert len(groups) == len(values)
        means = [values[groups == group].mean() for group in sorted(set(groups.tolist()))]
        assert abs(np.mean(means) - found[name]) < 1e-9, name


def check_intervals(evaluation: Evaluation) -> None:
    """Every number has an interval, and lies in it."""
    for metric in evaluation.metrics:
        assert metric.low is not None and metric.high is not None, metric.name
        assert metric.low - 1e-9 <= metric.value <= metric.high + 1e-9, metric


def slopes(number: Callable[[np.ndarray], float], size: int, step: float = 1e-5) -> np.ndarray:
    """Return how a number of weighted samples changes with the weight of each, by differences around 1."""
    found = []
    for i in range(size):
        change = step * np.eye(size)[i]
        found.append((number(1 + change) - number(1 - change)) / (2 * step))
    return np.array(found)
