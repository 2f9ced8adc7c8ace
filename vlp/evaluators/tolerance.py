"""How near images of one class lie to each other."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, Metric, RecipeError


@evaluators.register("tolerance")
class Tolerance:
    """Average the cosines of image embeddings within classes (Wang and Liu 2021, arXiv 2012.09740, section 3.4).

    `tolerance` is the mean over pairs of different images of one class. The paper's definition multiplies by whether
    the classes are equal and averages over all pairs, so that it falls with the number of classes:
    `tolerance_all_pairs`. `cosine_between_classes` is the mean over pairs of different classes, to compare with.
    """

    texts: tuple[str, ...] = ()

    def __init__(self, data: EvaluationSet):
        check_kind(data, "classification")
        self.data = data
        if len(set(data.labels)) == len(data.labels):
            raise RecipeError(f"{data.folder.root}: no class has two images, and tolerance compares images of a class")

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed the images and average."""
        images = encoder.images(self.data)
        return measure_tolerance(images, torch.tensor(self.data.labels, device=images.device))


def measure_tolerance(images: Float32[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> Evaluation:
    """Average cosines from the sums of each class; no pair is formed."""
    rows: Float64[Tensor, "n d"] = images.double()
    _, places = labels.unique(return_inverse=True)
    counts = places.bincount()
    sums = torch.zeros(len(counts), rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(0, places, rows)
    own = rows.square().sum()
    within = float(sums.square().sum() - own)
    everything = float(rows.sum(0).square().sum() - own)
    num_within, num_pairs = int((counts * (counts - 1)).sum()), len(rows) * (len(rows) - 1)
    metrics = [
        Metric("tolerance", within / num_within, len(rows)),
        Metric("tolerance_all_pairs", within / num_pairs, len(rows)),
    ]
    if num_pairs > num_within:
        between = (everything - within) / (num_pairs - num_within)
        metrics.append(Metric("cosine_between_classes", between, len(rows)))
    return Evaluation(tuple(metrics), {"classes": len(counts)})
