"""Zero-shot classification of images that show several classes: average precision of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from numpy.typing import NDArray
from torch import Tensor

from vlp.evaluators.base import check_classes, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import linearised
from vlp.evaluators.prompts import class_embeddings, prompts_of
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, PerSample

SCORES_AT_ONCE = 2**22


@evaluators.register("multilabel")
class Multilabel:
    """Rank the images for each class and average the precision at those that show it, by CLIP_benchmark's protocol.

    `map` is the mean over classes. Where no two images score the same for a class it is CLIP_benchmark's
    `mean_average_precision` and the mean of scikit-learn's `average_precision_score`. Where some do, these differ:
    `map` counts equal scores together, as scikit-learn, so that a model that says the same of all images gets the share
    of the class; `map_sorted` takes them in the order of the set, as CLIP_benchmark does if its sort is stable. Either
    counts a class without images as 0.

    Args:
        prompts: File relative to `eval/`: templates, or for each class its own prompts; the set's own when absent.
    """

    def __init__(self, data: EvaluationSet, *, prompts: str | None = None):
        check_classes(data, "multilabel")
        self.data = data
        self.prompts = prompts_of(data, prompts)
        self.texts = self.prompts.texts

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and prompts and rank the images."""
        classes = class_embeddings(encoder, self.prompts)
        images = encoder.images(self.data)
        truth = torch.from_numpy(np.asarray(self.data.label_matrix)).bool()
        return rank_images(images, classes, truth, self.data.class_names)


@dataclass(frozen=True)
class Precision:
    """Average precision of classes.

    Args:
        grouped: Images of equal score count together (scikit-learn).
        ordered: They stand in the order of the set (CLIP_benchmark).
        influences: Derivative of the mean of `grouped` by the weight of each image.
        ties: Images that show the class and score as much as one that does not.
    """

    grouped: Float64[Tensor, " c"]
    ordered: Float64[Tensor, " c"]
    influences: Float64[Tensor, " n"]
    ties: int


def rank_images(
    images: Float32[Tensor, "n d"],
    classes: Float32[Tensor, "c d"],
    truth: Bool[Tensor, "n c"],
    class_names: tuple[str, ...],
) -> Evaluation:
    """Score images against classes, a few classes at a time, on the device where the images lie."""
    chunk = max(1, SCORES_AT_ONCE // len(images))
    parts = [
        average_precision(rows @ images.T, shown.T.to(images.device))
        for rows, shown in zip(classes.split(chunk), truth.split(chunk, dim=1), strict=True)
    ]
    grouped, ordered = (torch.cat([getattr(part, name) for part in parts]).cpu() for name in ("grouped", "ordered"))
    influences: NDArray[np.float64] = torch.stack([part.influences for part in parts]).sum(dim=0).cpu().numpy()
    influences = influences / len(classes)
    both = {"map": float(grouped.mean()), "map_sorted": float(ordered.mean())}
    samples = {name: PerSample((mean + len(images) * influences).tolist()) for name, mean in both.items()}
    details = {
        "class_names": list(class_names),
        "samples_per_class": truth.sum(dim=0).tolist(),
        "average_precision": grouped.tolist(),
        "average_precision_sorted": ordered.tolist(),
        "ties": sum(part.ties for part in parts),
    }
    return Evaluation(tuple(linearised(name, mean, influences) for name, mean in both.items()), details, samples)


def average_precision(scores: Float32[Tensor, "c n"], truth: Bool[Tensor, "c n"]) -> Precision:
    """Average the precision at the images of each class: what share of the images that score as much shows the class.

    The derivative by the weight of an image j is that of sum_i T_i / R_i / P over the images i of the class, where T_i
    and R_i are the weights of those of the class and of all that score at least as much as i, and P is the class's.
    """
    falling, order = scores.sort(dim=1, descending=True, stable=True)
    shown = truth.gather(1, order).double()
    found = shown.cumsum(dim=1)
    place = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=torch.float64)
    total = found[:, -1:].clamp(min=1)
    ordered = (shown * found / place).sum(dim=1) / total[:, 0]
    rising = -falling
    end = torch.searchsorted(rising, rising, right=True)  # how many score at least as much
    start = torch.searchsorted(rising, rising)  # how many score more
    precision = found.gather(1, end - 1) / end
    grouped = (shown * precision).sum(dim=1) / total[:, 0]
    # an image counts in R_i and T_i of every i that scores no more than it: sums from its own group to the end
    lowered = _from(shown * precision / end, start)
    raised = _from(shown / end, start)
    slopes = (shown * (precision + raised - grouped[:, None]) - lowered) / total
    influences = torch.zeros_like(slopes).scatter_(1, order, slopes).sum(dim=0)
    negatives = end - start - (found.gather(1, end - 1) - (found - shown).gather(1, start))
    return Precision(grouped, ordered, influences, int(((negatives > 0) & (shown > 0)).sum()))


def _from(values: Float64[Tensor, "c n"], start: Tensor) -> Float64[Tensor, "c n"]:
    """Sum values from a place to the end of each row."""
    before = values.cumsum(dim=1)
    return before[:, -1:] - (before - values).gather(1, start)
