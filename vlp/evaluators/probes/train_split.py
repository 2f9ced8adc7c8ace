"""Further splits of the set that a task is on: what probes learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.evaluators.dataset import DataSource, EvaluationSet
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError

Features = Literal["projected", "backbone"]


@dataclass(frozen=True)
class SplitFeatures:
    """Frozen features of one split with their classes."""

    data: EvaluationSet
    features: Float32[Tensor, "n d"]
    labels: Int64[Tensor, " n"]

    def told(self) -> dict[str, object]:
        """Return what a record says of it."""
        return told_of(self.data)


def told_of(data: EvaluationSet) -> dict[str, object]:
    """Return what a record says of a split that was learned from."""
    return {"split": data.source.split, "samples": len(data), "sha256": data.sha256}


def open_split(encoder: SharedEncoder, data: EvaluationSet, split: str, setting: str) -> EvaluationSet:
    """Open another split of a set, which must have all its classes unless `data.classes_without_samples` allows less.

    Where the tested split is corrupted, this one is not: a probe learns from clean images, as models do. It is whole
    where half of the tested one is read.

    Args:
        setting: Which setting names the split, for messages.

    Raises:
        RecipeError: It is not there, damaged, or the split that is tested.
    """
    if split == data.source.split:
        raise RecipeError(f"settings.{setting}: '{split}' is the split that is tested (data.split)")
    return encoder.open(_source_of(data.source, split))


def open_full_split(encoder: SharedEncoder, data: EvaluationSet, split: str) -> EvaluationSet:
    """Open another split of a set, from which samples of every class are drawn, as `open_split` does.

    Raises:
        RecipeError: Also where a class has no sample in it, whatever `data.classes_without_samples` allows.
    """
    found = open_split(encoder, data, split, "train_split")
    if absent := found.classes_without_samples:
        raise RecipeError(
            f"settings.train_split: {len(absent)} classes have no sample in '{split}' to learn from "
            f"({', '.join(absent[:5])}); name another split, or leave these classes out of the set"
        )
    return found


def read_features(encoder: SharedEncoder, data: EvaluationSet, features: Features) -> SplitFeatures:
    """Embed the images of a split, once for all tasks."""
    rows = encoder.images(data) if features == "projected" else encoder.image_features(data)
    return SplitFeatures(data, rows, torch.tensor(data.labels, device=rows.device))


def _source_of(source: DataSource, split: str) -> DataSource:
    lists = {name: digest for name, digest in source.sha256.items() if "/" not in name or name.startswith(f"{split}/")}
    absent = 0 if source.classes_without_samples == 0 else None
    known = {"split": split, "samples": None, "sha256": lists, "classes_without_samples": absent, "half": None}
    return source.as_is().model_copy(update=known)
