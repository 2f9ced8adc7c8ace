"""Is a classifier as often right as it is sure?"""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean, proportion
from vlp.evaluators.prompts import class_embeddings, prompts_of
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, Metric


@evaluators.register("calibration")
class Calibration:
    """Compare how sure zero-shot classification is with how often it is right: the expected calibration error.

    Guo et al. 2017, equation 3 (arXiv:1706.04599). Probabilities are the softmax of scale times cosine.

    Args:
        num_bins: Bins of equal width that the highest probability of an image may fall into.
        prompts: File of templates, or of prompts for each class, relative to `eval/`; the set's own when absent.
    """

    def __init__(self, data: EvaluationSet, *, num_bins: int = 15, prompts: str | None = None):
        check_kind(data, "classification")
        self.data = data
        self.num_bins = num_bins
        self.prompts = prompts_of(data, prompts)
        self.texts = self.prompts.texts

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and prompts and compare."""
        classes = class_embeddings(encoder, self.prompts)
        logits = encoder.scale * encoder.images(self.data) @ classes.T
        return calibrate(logits.softmax(dim=1), torch.tensor(self.data.labels), self.num_bins)


def calibrate(probabilities: Float32[Tensor, "n c"], labels: Int64[Tensor, " n"], num_bins: int) -> Evaluation:
    """Return the mean gap between confidence and accuracy over bins of confidence, each weighed by its images."""
    sure, predicted = probabilities.double().max(dim=1)
    right = (predicted == labels).double()
    bins = (sure * num_bins).ceil().long().clamp(1, num_bins) - 1
    gaps = torch.zeros(num_bins, dtype=torch.float64).index_add_(0, bins, sure - right)
    metrics = (
        Metric("ece", float(gaps.abs().sum()) / len(labels), len(labels)),
        mean("confidence", sure.numpy()),
        proportion("acc1", int(right.sum()), len(labels)),
    )
    return Evaluation(metrics, {"images_per_bin": bins.bincount(minlength=num_bins).tolist()})
