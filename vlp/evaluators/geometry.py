"""The shape of the embedding space: gap between modalities, alignment, uniformity, rank and score distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.influence import Estimate
from vlp.evaluators.intervals import mean, proportion
from vlp.evaluators.moments import centroid_cosine, centroid_distance, effective_rank, mean_cosine, mean_cosine_across
from vlp.evaluators.score_tiles import score_tiles, spaced_places
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.ranges import Count
from vlp.ground.types import Evaluation, Metric, RecipeError

BINS = 64
TEMPERATURE = 2.0


@evaluators.register("geometry")
class Geometry:
    """Describe image and caption embeddings of a retrieval set; one pair per image, its first caption.

    Gap and cones: Liang et al. 2022 (arXiv 2203.02053). Alignment and uniformity (at t=2): Wang & Isola 2020
    (arXiv 2005.10242). Cross uniformity: Fahim et al. 2024 (arXiv 2405.18570). Effective rank: Roy & Vetterli 2007,
    exp of the entropy of the normalised singular values, not centred. Intervals come from influence functions.

    Args:
        max_pairs: Take this many pairs, evenly spaced, from larger sets; the cost is quadratic.
    """

    def __init__(self, data: EvaluationSet, *, max_pairs: Count = 10_000):
        check_kind(data, "retrieval")
        self.data = data
        self.chosen = spaced_places(len(data), max_pairs)
        if len(self.chosen) < 2:
            raise RecipeError(
                f"settings.max_pairs is {max_pairs}, and there are {len(data)} images; geometry compares two pairs or "
                "more"
            )
        self.texts = tuple(data.captions[i][0] for i in self.chosen)

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed the pairs and measure them."""
        return measure(encoder.images(self.data)[torch.from_numpy(self.chosen)], encoder.texts(self.texts))


def measure(images: Float32[Tensor, "n d"], texts: Float32[Tensor, "n d"]) -> Evaluation:
    """Measure matching rows of unit norm; at least two pairs. Everything is computed in float64."""
    image, text = images.double(), texts.double()
    size = len(image)
    positives = (image * text).sum(dim=1)
    negatives = count_negatives(image, text, positives)
    kernels = {
        "uniformity_image": log_kernel(image, image),
        "uniformity_text": log_kernel(text, text),
        "cross_uniformity": log_kernel(image, text),
    }
    estimates = {
        "modality_gap": centroid_distance(image, text),
        "centroid_cosine": centroid_cosine(image, text),
        **kernels,
        "gap_mmd": gap_mmd(*kernels.values()),
        "mean_cosine_image": mean_cosine(image),
        "mean_cosine_text": mean_cosine(text),
        "mean_cosine_cross": mean_cosine_across(image, text),
        "effective_rank_image": effective_rank(image),
        "effective_rank_text": effective_rank(text),
        "auc": negatives.auc,
        "negative_mean": negatives.mean,
    }
    metrics = [estimate.as_metric(name) for name, estimate in estimates.items()]
    metrics.append(Metric("overlap", negatives.overlap, size))
    metrics.insert(2, mean("alignment", (2 - 2 * positives).cpu().numpy()))
    metrics.append(mean("positive_mean", positives.cpu().numpy()))
    if size >= 10:
        metrics.append(modality_accuracy(image.cpu().numpy(), text.cpu().numpy()))
    return Evaluation(tuple(metrics), {"pairs": size, "histogram": negatives.histogram})


def log_kernel(rows: Float64[Tensor, "n d"], columns: Float64[Tensor, "n d"]) -> Estimate:
    """Log of the mean of exp(-t |x_i - y_j|^2) over i != j; the pairs of one index are left out."""
    size = len(rows)
    sums, of_rows, of_columns = [], [], torch.zeros_like(columns[:, 0])
    for start, scores in score_tiles(rows, columns):
        kernel = _off_diagonal_exp(scores, start)
        sums.append(kernel.sum())
        of_rows.append(kernel.sum(1))
        of_columns += kernel.sum(0)
    total = torch.stack(sums).sum()
    influences = (torch.cat(of_rows) + of_columns) / total - 2 / size
    return Estimate(float(total.log()) - math.log(size * (size - 1)), influences, -4 * TEMPERATURE, 0)


def gap_mmd(image: Estimate, text: Estimate, across: Estimate) -> Estimate:
    """Squared maximum mean discrepancy of both towers from the logs of their kernels' means.

    The unbiased estimate of Gretton et al. 2012, lemma 6, without the matching pairs; it may be slightly negative.
    """
    means = [math.exp(each.value) for each in (image, text, across)]
    influences = means[0] * image.influences + means[1] * text.influences - 2 * means[2] * across.influences
    return Estimate(means[0] + means[1] - 2 * means[2], influences)


def _off_diagonal_exp(scores: Float64[Tensor, "c n"], start: int) -> Float64[Tensor, "c n"]:
    kernel = (2 * TEMPERATURE * (scores - 1)).exp_()
    kernel.diagonal(start).zero_()
    return kernel


@dataclass(frozen=True)
class Negatives:
    """What the scores of all non-matching pairs are like.

    Args:
        overlap: What the histograms of positives and negatives have in common.
        histogram: Edges of the bins, and counts of both.
    """

    auc: Estimate
    mean: Estimate
    overlap: float
    histogram: dict[str, list[float]]


def count_negatives(
    image: Float64[Tensor, "n d"], text: Float64[Tensor, "n d"], positives: Float64[Tensor, " n"]
) -> Negatives:
    """Stream over all non-matching pairs: their mean, histogram, and the chance that a positive scores more (AUC).

    The AUC is exact (Mann-Whitney): ties count one half.
    """
    size = len(image)
    count = size * (size - 1)
    ordered, order = positives.sort()
    total = 0.0
    histogram = torch.zeros(BINS, dtype=torch.int64, device=image.device)
    passed = torch.zeros(size + 1, dtype=torch.int64, device=image.device)  # by how many positives are lower, twice
    of_rows, of_columns = [], torch.zeros(size, dtype=torch.int64, device=image.device)
    for start, scores in score_tiles(image, text):
        keep = torch.ones_like(scores, dtype=torch.bool)
        keep.diagonal(start).fill_(False)
        negatives = scores[keep]
        total += float(negatives.sum())
        histogram += _histogram(negatives)
        lower, at_most = (torch.searchsorted(ordered, negatives, right=right) for right in (False, True))
        passed += torch.bincount(lower, minlength=size + 1) + torch.bincount(at_most, minlength=size + 1)
        beaten = torch.zeros_like(scores, dtype=torch.int64)
        beaten[keep] = 2 * size - lower - at_most  # twice how many positives score more
        of_rows.append(beaten.sum(1))
        of_columns += beaten.sum(0)
    wins = of_columns.sum().item() / 2
    auc = wins / (size * count)
    as_negative = (torch.cat(of_rows) + of_columns).double() / (2 * size * (size - 1))
    as_positive = torch.empty_like(positives)
    as_positive[order] = passed.cumsum(0)[:-1].double() / (2 * count)
    apart = image @ text.sum(0) + text @ image.sum(0) - 2 * positives
    positive_histogram = _histogram(positives)
    overlap = torch.minimum(positive_histogram / size, histogram / count).sum()
    return Negatives(
        Estimate(auc, (as_positive + as_negative - 3 * auc) / size, 0, 1),
        Estimate(total / count, (apart / (size - 1) - 2 * total / count) / size, -1, 1),
        float(overlap),
        {
            "edges": np.linspace(-1, 1, BINS + 1).tolist(),
            "positive": positive_histogram.tolist(),
            "negative": histogram.tolist(),
        },
    )


def _histogram(scores: Tensor) -> Tensor:
    bins = ((scores + 1) * (BINS / 2)).long().clamp_(0, BINS - 1)
    return torch.bincount(bins, minlength=BINS)


def modality_accuracy(image: np.ndarray, text: np.ndarray) -> Metric:
    """Held-out accuracy of a linear classifier that tells images from texts: 0.5 without a gap, 1 with a full one.

    Logistic regression (L2, C=1); every fifth pair is held out, with both its sides.
    """
    from sklearn.linear_model import LogisticRegression  # seconds, which most evaluations need not wait for

    held_out = np.arange(len(image)) % 5 == 4
    train = np.concatenate([image[~held_out], text[~held_out]])
    test = np.concatenate([image[held_out], text[held_out]])
    train_labels = np.repeat([0, 1], len(train) // 2)
    test_labels = np.repeat([0, 1], len(test) // 2)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(train, train_labels)
    return proportion("modality_accuracy", int((model.predict(test) == test_labels).sum()), len(test))
