"""The shape of the embedding space: gap between modalities, alignment, uniformity, rank and score distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean, proportion
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, Metric

CHUNK = 512
BINS = 64
TEMPERATURE = 2.0


@evaluators.register("geometry")
class Geometry:
    """Describe image and caption embeddings of a retrieval set; one pair per image, its first caption.

    Gap and cones: Liang et al. 2022 (arXiv 2203.02053). Alignment and uniformity (at t=2): Wang & Isola 2020
    (arXiv 2005.10242). Cross uniformity: Fahim et al. 2024 (arXiv 2405.18570). Effective rank: Roy & Vetterli 2007,
    exp of the entropy of the normalised singular values, not centred.

    Args:
        max_pairs: Take this many pairs, evenly spaced, from larger sets; the cost is quadratic.
    """

    def __init__(self, data: EvaluationSet, *, max_pairs: int = 10_000):
        check_kind(data, "retrieval")
        self.data = data
        self.chosen = np.linspace(0, len(data) - 1, min(len(data), max_pairs)).round().astype(np.int64)
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
    gap_mmd = math.exp(kernels["uniformity_image"]) + math.exp(kernels["uniformity_text"])
    values = {
        "modality_gap": float((image.mean(0) - text.mean(0)).norm()),
        "centroid_cosine": float(torch.cosine_similarity(image.mean(0), text.mean(0), dim=0)),
        **kernels,
        "gap_mmd": gap_mmd - 2 * math.exp(kernels["cross_uniformity"]),
        "mean_cosine_image": mean_cosine(image),
        "mean_cosine_text": mean_cosine(text),
        "mean_cosine_cross": float(image.mean(0) @ text.mean(0)),
        "effective_rank_image": effective_rank(image),
        "effective_rank_text": effective_rank(text),
        "auc": negatives["auc"],
        "negative_mean": negatives["mean"],
        "overlap": negatives["overlap"],
    }
    metrics = [Metric(name, value, size) for name, value in values.items()]
    metrics.insert(2, mean("alignment", (2 - 2 * positives).cpu().numpy()))
    metrics.append(mean("positive_mean", positives.cpu().numpy()))
    if size >= 10:
        metrics.append(modality_accuracy(image.cpu().numpy(), text.cpu().numpy()))
    return Evaluation(tuple(metrics), {"pairs": size, "histogram": negatives["histogram"]})


def log_kernel(rows: Float64[Tensor, "n d"], columns: Float64[Tensor, "n d"]) -> float:
    """Log of the mean of exp(-t |x_i - y_j|^2) over i != j; the pairs of one index are left out."""
    size = len(rows)
    sums = [_off_diagonal_exp(scores, start).sum() for start, scores in _score_chunks(rows, columns)]
    return float(torch.stack(sums).sum().log()) - math.log(size * (size - 1))


def _off_diagonal_exp(scores: Float64[Tensor, "c n"], start: int) -> Float64[Tensor, "c n"]:
    kernel = (2 * TEMPERATURE * (scores - 1)).exp_()
    kernel.diagonal(start).zero_()
    return kernel


def _score_chunks(
    rows: Float64[Tensor, "n d"], columns: Float64[Tensor, "n d"]
) -> Iterator[tuple[int, Float64[Tensor, "c n"]]]:
    for start in range(0, len(rows), CHUNK):
        yield start, rows[start : start + CHUNK] @ columns.T


def mean_cosine(rows: Float64[Tensor, "n d"]) -> float:
    """Mean cosine of two different rows, without forming the matrix."""
    size = len(rows)
    return float((rows.sum(0).square().sum() - rows.square().sum()) / (size * (size - 1)))


def effective_rank(rows: Float64[Tensor, "n d"]) -> float:
    """Exp of the entropy of the normalised singular values."""
    singular = torch.linalg.svdvals(rows)
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp())


def count_negatives(
    image: Float64[Tensor, "n d"], text: Float64[Tensor, "n d"], positives: Float64[Tensor, " n"]
) -> dict[str, Any]:
    """Stream over all non-matching pairs: their mean, histogram, and the chance that a positive scores more (AUC).

    The AUC is exact (Mann-Whitney): ties count one half.
    """
    size = len(image)
    ordered = positives.sort().values
    below = above = 0
    total = 0.0
    histogram = torch.zeros(BINS, dtype=torch.int64, device=image.device)
    for start, scores in _score_chunks(image, text):
        keep = torch.ones_like(scores, dtype=torch.bool)
        keep.diagonal(start).fill_(False)
        negatives = scores[keep]
        total += float(negatives.sum())
        histogram += _histogram(negatives)
        above += int((size - torch.searchsorted(ordered, negatives, right=True)).sum())
        below += int(torch.searchsorted(ordered, negatives).sum())
    count = size * (size - 1)
    wins = (above + (size * count - below - above) / 2) / (size * count)
    positive_histogram = _histogram(positives)
    overlap = torch.minimum(positive_histogram / size, histogram / count).sum()
    return {
        "auc": wins,
        "mean": total / count,
        "overlap": float(overlap),
        "histogram": {
            "edges": np.linspace(-1, 1, BINS + 1).tolist(),
            "positive": positive_histogram.tolist(),
            "negative": histogram.tolist(),
        },
    }


def _histogram(scores: Tensor) -> Tensor:
    bins = ((scores + 1) * (BINS / 2)).long().clamp_(0, BINS - 1)
    return torch.bincount(bins, minlength=BINS)


def modality_accuracy(image: np.ndarray, text: np.ndarray) -> Metric:
    """Held-out accuracy of a linear classifier that tells images from texts: 0.5 without a gap, 1 with a full one.

    Logistic regression (L2, C=1); every fifth pair is held out, with both its sides.
    """
    held_out = np.arange(len(image)) % 5 == 4
    train = np.concatenate([image[~held_out], text[~held_out]])
    test = np.concatenate([image[held_out], text[held_out]])
    train_labels = np.repeat([0, 1], len(train) // 2)
    test_labels = np.repeat([0, 1], len(test) // 2)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(train, train_labels)
    return proportion("modality_accuracy", int((model.predict(test) == test_labels).sum()), len(test))
