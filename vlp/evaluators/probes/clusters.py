"""Do clusters agree with classes? Scores of scikit-learn, with intervals by their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy  # whose parts are imported when they are used
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from vlp.evaluators.groups import ones
from vlp.evaluators.intervals import linearised, proportion
from vlp.ground.types import Evaluation, Metric, PerSample


def find_clusters(rows: Tensor, number: int, starts: int, seed: int) -> tuple[NDArray[np.int64], float]:
    """Return the cluster of each row by k-means, best of several starts by k-means++, and the sum of squares left."""
    from sklearn.cluster import KMeans  # seconds, which most evaluations need not wait for

    means = KMeans(number, n_init=starts, random_state=seed).fit(rows.cpu().double().numpy())
    return means.labels_.astype(np.int64), float(means.inertia_)


@dataclass(frozen=True)
class Cells:
    """The cells of a table of clusters by classes that are not empty."""

    clusters: Tensor
    classes: Tensor
    counts: Float64[Tensor, " cells"]

    def sums(self, groups: Tensor) -> Float64[Tensor, " g"]:
        """Return the samples of each cluster or class."""
        return torch.zeros(int(groups.max()) + 1, dtype=torch.float64).index_add(0, groups, self.counts)

    def mutual_information(self) -> Float64[Tensor, ""]:
        """Return it as a share of the mean entropy of clusters and classes; the V-measure."""
        total = self.counts.sum()
        entropies = [
            -(part * part.log()).sum()
            for part in (sums[sums > 0] / total for sums in (self.sums(self.clusters), self.sums(self.classes)))
        ]
        shares = self.counts / total
        return 2 * (1 + (shares * shares.log()).sum() / sum(entropies))

    def adjusted_rand(self) -> Float64[Tensor, ""]:
        """Return how many pairs are together in both, relative to chance."""
        pairs, by_cluster, by_class, everything = (
            (counts * (counts - 1)).sum() / 2
            for counts in (self.counts, self.sums(self.clusters), self.sums(self.classes), self.counts.sum()[None])
        )
        expected = by_cluster * by_class / everything
        return (pairs - expected) / ((by_cluster + by_class) / 2 - expected)


def score_clusters(clusters: NDArray[np.int64], classes: NDArray[np.int64], prefix: str = "") -> Evaluation:
    """Score clusters by normalised mutual information, adjusted Rand index and accuracy of the best matching.

    What a sample adds to the first two is its pseudo-value, as in `macro_f1`.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score  # as above

    scores: dict[str, tuple[float, Callable[[Cells], Tensor], float]] = {
        f"{prefix}nmi": (float(normalized_mutual_info_score(classes, clusters)), Cells.mutual_information, 0.0),
        f"{prefix}ari": (float(adjusted_rand_score(classes, clusters)), Cells.adjusted_rand, -0.5),
    }
    metrics, samples = [], {}
    for name, (value, formula, least) in scores.items():
        influences = influences_of(formula, clusters, classes)
        metrics.append(linearised(name, value, influences, least=least))
        samples[name] = PerSample((value + len(classes) * influences).tolist())
    accuracy, hits = _match(clusters, classes, f"{prefix}cluster_accuracy")
    samples[accuracy.name] = PerSample(ones(hits))
    return Evaluation((*metrics, accuracy), {f"{prefix}clusters": clusters.tolist()}, samples)


def influences_of(
    formula: Callable[[Cells], Tensor], clusters: NDArray[np.int64], classes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the derivative of a score by the weight of each sample, the mean of all taken away.

    Where there is one cluster or one class alone, or each sample is alone in both, there is nothing to vary.
    """
    cells, places, counts = np.unique(
        np.stack([clusters, classes], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    if len(np.unique(clusters)) == 1 or len(np.unique(classes)) == 1 or len(cells) == len(classes):
        return np.zeros(len(classes))
    weights = torch.from_numpy(counts).double().requires_grad_()
    by_cluster, by_class = torch.from_numpy(cells).unbind(1)
    (slopes,) = torch.autograd.grad(formula(Cells(by_cluster, by_class, weights)), weights)
    found: NDArray[np.float64] = slopes.numpy()[places.reshape(-1)]
    return found - found.mean()


def _match(clusters: NDArray[np.int64], classes: NDArray[np.int64], name: str) -> tuple[Metric, NDArray[np.bool_]]:
    """Give each cluster the class that makes most samples right, no class twice (the Hungarian method)."""
    table = np.zeros((clusters.max() + 1, classes.max() + 1), dtype=np.int64)
    np.add.at(table, (clusters, classes), 1)
    rows, columns = scipy.optimize.linear_sum_assignment(table, maximize=True)
    named = np.full(len(table), -1)
    named[rows] = columns
    hits = named[clusters] == classes
    return proportion(name, int(hits.sum()), len(hits)), hits
