"""Accuracy among superclasses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.evaluators.intervals import proportion
from vlp.evaluators.prompts import read_dictionary
from vlp.ground.paths import find_file
from vlp.ground.registry import nearest
from vlp.ground.types import Evaluation, PerSample, RecipeError

CHUNK = 4096


def superclasses_of(file: str, class_names: Sequence[str]) -> tuple[tuple[str, ...], Int64[Tensor, " c"]]:
    """Return the names of the superclasses and the number of that of each class.

    Args:
        file: YAML or JSON, class to superclass, relative to `eval/`; may name other classes too.

    Raises:
        RecipeError: A class has no superclass, or all have the same.
    """
    path = find_file("eval", file)
    listed = read_dictionary(path)
    for name in class_names:
        if name not in listed:
            raise RecipeError(f"{path}: no superclass for class '{name}'{nearest(name, listed)}")
        if not isinstance(listed[name], str):
            raise RecipeError(f"{path}: superclass of '{name}' is {listed[name]!r}, not a name")
    names = tuple(dict.fromkeys(listed[name] for name in class_names))
    if len(names) < 2:
        raise RecipeError(f"{path}: all classes have the same superclass, '{names[0]}'")
    return names, torch.tensor([names.index(listed[name]) for name in class_names])


def score_superclasses(
    images: Float32[Tensor, "n d"],
    classes: Float32[Tensor, "c d"],
    predictions: Int64[Tensor, " n"],
    labels: Int64[Tensor, " n"],
    superclass: Int64[Tensor, " c"],
    names: Sequence[str],
) -> Evaluation:
    """Score superclasses by their best class (`acc1_super`) and by the mean score of their classes (`acc1_super_mean`).

    The mean score is the score of the mean embedding, which is not brought to unit norm.
    """
    superclass = superclass.to(images.device)
    sums = classes.new_zeros(len(names), classes.shape[1]).index_add_(0, superclass, classes)
    means = sums / torch.bincount(superclass, minlength=len(names))[:, None]
    by_mean = torch.cat([(rows @ means.T).argmax(dim=1) for rows in images.split(CHUNK)])
    metrics, samples = [], {}
    for name, found in (("acc1_super", superclass[predictions]), ("acc1_super_mean", by_mean)):
        hits = (found == superclass[labels]).cpu()
        metrics.append(proportion(name, int(hits.sum()), len(hits)))
        samples[name] = PerSample(hits.double().tolist())
    return Evaluation(tuple(metrics), {"superclasses": list(names)}, samples)
