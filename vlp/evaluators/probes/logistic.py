"""Multinomial logistic regression with an L2 penalty, to scikit-learn's optimum, on the device of the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy  # whose parts are imported when they are used
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 8192  # rows whose logits exist at a time
ROUND = 30  # iterations before the curvature is looked at anew, while it changes
MEMORY = 20  # pairs of steps and gradients that L-BFGS keeps
MOST = 1000  # iterations, as in Radford et al. 2021, A.3
LEAST_CURVATURE = 1e-8
LEAST_GAIN = 1e-12  # nats per sample


@dataclass(frozen=True)
class LinearClassifier:
    """Weights and intercepts of classes, and how exactly they were found.

    Args:
        objective: Sum of losses plus penalty, in nats.
        gap: How far the objective lies above its optimum, as a share of how far weights have brought it below what
            intercepts alone reach; by the gradient, and small by a factor of up to a hundred.
        evaluations: How often objective and gradient were computed.
        curvature: Mean variance of each class under the predicted probabilities.
    """

    weights: Float64[Tensor, "d c"]
    intercepts: Float64[Tensor, " c"]
    objective: float = float("nan")
    gap: float = float("inf")
    evaluations: int = 0
    curvature: Float64[Tensor, " c"] | None = None

    def rows(self, features: Float[Tensor, "n d"]) -> tuple[Float64[Tensor, "n e"], Float64[Tensor, "c e"]]:
        """Return features and classes whose products are the logits."""
        ones = torch.ones(len(features), 1, dtype=torch.float64, device=features.device)
        return torch.cat([features.double(), ones], 1), torch.cat([self.weights.T, self.intercepts[:, None]], 1)

    def predict(self, features: Float[Tensor, "n d"]) -> Int64[Tensor, " n"]:
        """Return the class of the largest logit; the first of equal ones."""
        parts = features.split(CHUNK)
        return torch.cat([(part.double() @ self.weights + self.intercepts).argmax(dim=1) for part in parts])


@dataclass(frozen=True)
class LabelledRows:
    """Features with their classes; what depends on the features alone is computed once for all penalties."""

    features: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    num_classes: int

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def mean(self) -> Float64[Tensor, " d"]:
        """Mean of the features."""
        return sum((part.double().sum(0) for part in self.features.split(CHUNK)), torch.zeros(())) / len(self)

    @cached_property
    def axes(self) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
        """Variances along the principal axes, and the axes as columns."""
        centred = (part.double() - self.mean for part in self.features.split(CHUNK))
        covariance = torch.stack([part.T @ part for part in centred]).sum(0) / len(self)
        variances, axes = torch.linalg.eigh(covariance)
        return variances.clamp_min(0), axes

    def gain(self, objective: float, penalty: float, weights: Float64[Tensor, "d c"]) -> float:
        """Return how far weights have brought the objective below what intercepts alone reach, in nats per sample.

        It is never less than the penalty: at the optimum the loss gave at least as much for it.
        """
        shares = self.labels.bincount(minlength=self.num_classes).double() / len(self)
        alone = float(torch.special.entr(shares).sum())
        paid = penalty / 2 * float(weights.square().sum()) / len(self)
        return max(alone - objective, paid, LEAST_GAIN)

    def look(
        self, weights: Float64[Tensor, "d c"], intercepts: Float64[Tensor, " c"], dtype: torch.dtype
    ) -> tuple[float, Float64[Tensor, "d c"], Float64[Tensor, " c"], Float64[Tensor, " c"]]:
        """Return the sum of losses, its gradients by weights and centred intercepts, and the curvature of classes.

        Args:
            intercepts: Logits of the mean of the features.
            dtype: Of the products; sums are float64.
        """
        offset = (intercepts - self.mean @ weights).to(dtype)
        by_weights = torch.zeros_like(weights.T)
        by_intercepts, curvature, loss = (torch.zeros_like(intercepts) for _ in range(3))
        low = weights.to(dtype)
        for rows, truth in zip(self.features.split(CHUNK), self.labels.split(CHUNK), strict=True):
            rows = rows.to(dtype)
            shares = torch.addmm(offset, rows, low)
            shares -= shares.max(dim=1, keepdim=True).values
            right = shares.gather(1, truth[:, None])
            total = shares.exp_().sum(dim=1, keepdim=True)
            loss += (total.log() - right).double().sum()
            shares /= total
            curvature += (shares - shares.square()).sum(0).double()
            shares[torch.arange(len(truth), device=truth.device), truth] -= 1
            by_weights += shares.T @ rows  # several times faster than its transpose where classes are few
            by_intercepts += shares.sum(0)
        centred = by_weights.T - self.mean[:, None] * by_intercepts
        return float(loss[0]), centred, by_intercepts, curvature / len(self)


def fit(
    rows: LabelledRows,
    penalty: float,
    *,
    start: LinearClassifier | None = None,
    dtype: torch.dtype = torch.float64,
    gap: float = 1e-10,
) -> LinearClassifier:
    """Minimise the sum of cross-entropies plus penalty / 2 times the squared weights; intercepts are free.

    That is scikit-learn's `LogisticRegression(C=1 / penalty)` for three classes or more; its two-class model has one
    vector for two and equals this with `C=2 / penalty`. Full-batch L-BFGS (Liu & Nocedal 1989) along the principal axes
    of the centred features, each scaled by the curvature that it has at the start of a round of iterations.

    Args:
        start: Where to begin, such as the optimum of another penalty.
        dtype: Of the products of features and weights.
        gap: How far from the optimum to stop, as a share of what the weights have gained.
    """
    width, size = rows.features.shape[1], len(rows)
    device = rows.features.device
    if start is None:
        zeros = torch.zeros(width, rows.num_classes, dtype=torch.float64, device=device)
        start = LinearClassifier(zeros, zeros.new_zeros(rows.num_classes))
    curvature = start.curvature
    if curvature is None:
        even = (1 - 1 / rows.num_classes) / rows.num_classes
        curvature = torch.full((rows.num_classes,), even, dtype=torch.float64, device=device)
    weights, intercepts = start.weights, start.intercepts + rows.mean @ start.weights
    evaluations, before, is_steady = 0, float("inf"), False
    while True:
        walk = _Walk(rows, penalty, curvature, dtype)
        place = walk.leave(weights, intercepts)
        value, slopes = walk.look(place)
        left = walk.distance(slopes)
        gain = rows.gain(value, penalty, weights)
        is_there = left <= gap * gain and walk.is_like(walk.curvature_at_end)
        if is_there or value >= before or evaluations >= MOST:
            break
        found = scipy.optimize.minimize(
            walk.look,
            place,
            jac=True,
            method="L-BFGS-B",
            callback=walk.stopping_at(gap * max(gain, left)),
            options={"maxiter": MOST if is_steady else ROUND, "maxcor": MEMORY, "gtol": 0.0, "ftol": 0.0},
        )
        weights, intercepts = walk.arrive(found.x)
        evaluations += found.nfev
        curvature, before, is_steady = walk.curvature_at_end, value, walk.is_like(walk.curvature_at_end)
    plain = intercepts - rows.mean @ weights
    return LinearClassifier(weights, plain, value * size, left / gain, evaluations, walk.curvature_at_end)


class _Walk:
    """A round of iterations: the objective in coordinates in which its curvature is about one.

    What all classes have in common changes no probability and is none at the optimum; it is taken away on the way too,
    as its curvature is that of the penalty alone.

    Args:
        curvature: What each class is expected to have.
    """

    def __init__(self, rows: LabelledRows, penalty: float, curvature: Float64[Tensor, " c"], dtype: torch.dtype):
        self.rows, self.penalty, self.dtype = rows, penalty, dtype
        self.expected = curvature.clamp_min(LEAST_CURVATURE) * len(rows)
        variances, self.axes = rows.axes
        self.scales = (penalty + variances[:, None] * self.expected).rsqrt()
        self.scale = self.expected.rsqrt()
        self.curvature_at_end = curvature
        self._last: tuple[NDArray[np.float64], tuple[float, NDArray[np.float64]]] | None = None

    def leave(self, weights: Float64[Tensor, "d c"], intercepts: Float64[Tensor, " c"]) -> NDArray[np.float64]:
        """Return the coordinates of a classifier."""
        found = torch.cat([self.axes.T @ weights / self.scales, (intercepts / self.scale)[None]])
        return found.reshape(-1).cpu().numpy()

    def arrive(self, place: NDArray[np.float64]) -> tuple[Float64[Tensor, "d c"], Float64[Tensor, " c"]]:
        """Return the weights and centred intercepts at coordinates."""
        moved = torch.from_numpy(place).to(self.axes.device).view(-1, self.rows.num_classes)
        weights, intercepts = self.axes @ (self.scales * moved[:-1]), self.scale * moved[-1]
        return weights - weights.mean(dim=1, keepdim=True), intercepts - intercepts.mean()

    def look(self, place: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return objective and gradient, per sample."""
        if self._last is not None and np.array_equal(place, self._last[0]):
            return self._last[1]
        weights, intercepts = self.arrive(place)
        loss, by_weights, by_intercepts, self.curvature_at_end = self.rows.look(weights, intercepts, self.dtype)
        value = loss + self.penalty / 2 * float(weights.square().sum())
        by_weights = by_weights + self.penalty * weights
        slopes = self.scales * (self.axes.T @ (by_weights - by_weights.mean(dim=1, keepdim=True)))
        slope = self.scale * (by_intercepts - by_intercepts.mean())
        gradient = torch.cat([slopes, slope[None]]) / len(self.rows)
        found = value / len(self.rows), gradient.reshape(-1).cpu().numpy()
        self._last = place.copy(), found
        return found

    def distance(self, gradient: NDArray[np.float64]) -> float:
        """Return about how far a point lies above the optimum, per sample: half the squared gradient of the sum."""
        return float(np.square(gradient).sum()) * len(self.rows) / 2

    def stopping_at(self, distance: float) -> Callable[[scipy.optimize.OptimizeResult], None]:
        """Return what ends a walk that is so near to the optimum, per sample."""

        # the name by which SciPy knows what to pass
        def look_around(intermediate_result: scipy.optimize.OptimizeResult) -> None:
            if self.distance(self.look(intermediate_result.x)[1]) <= distance:  # known
                raise StopIteration

        return look_around

    def is_like(self, curvature: Float64[Tensor, " c"]) -> bool:
        """Whether the curvature that was expected is about the one that was found."""
        ratio = self.expected / (curvature.clamp_min(LEAST_CURVATURE) * len(self.rows))
        return bool(ratio.max() < 2)
