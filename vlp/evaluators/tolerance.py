"""How near images of one class lie to each other."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.influence import Estimate
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, RecipeError


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
    size, own = len(rows), rows.square().sum(1)
    within = (rows * sums[places]).sum(1) - own
    everything = rows @ rows.sum(0) - own
    partners = (counts[places] - 1).double()
    metrics = [
        _mean_of_pairs(within, partners).as_metric("tolerance"),
        _mean_of_pairs(within, torch.full_like(within, size - 1)).as_metric("tolerance_all_pairs"),
    ]
    if len(counts) > 1:
        between = _mean_of_pairs(everything - within, size - 1 - partners)
        metrics.append(between.as_metric("cosine_between_classes"))
    return Evaluation(tuple(metrics), {"classes": len(counts)})


def _mean_of_pairs(sums: Float64[Tensor, " n"], counts: Float64[Tensor, " n"]) -> Estimate:
    """Return the mean of cosines of pairs, from their sum and number of which each sample is one side."""
    value = float(sums.sum() / counts.sum())
    return Estimate(value, 2 * (sums - value * counts) / counts.sum(), -1, 1)
