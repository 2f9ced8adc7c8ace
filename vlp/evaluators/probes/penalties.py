"""Which penalty of logistic regression: CLIP's search on held-out samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vlp.evaluators.probes.logistic import LabelledRows, LinearClassifier, fit

PER_DECADE = 8
WEAKEST, STRONGEST = -6 * PER_DECADE, 6 * PER_DECADE
FIRST_STEP = 2 * PER_DECADE
ROUGH = 1e-4  # of what weights gain; neighbours on the path differ by more
FALLS = 2  # penalties in a row that score less than the best, after which weaker ones of the first pass are left out
NEAR = 1e-7  # where float32 hands over to float64
LARGE = 2_000_000  # numbers in the features from which float32 saves time
STRONG = 0.01  # penalty per sample from which weights are so small that their gain drowns in the digits of float32


@dataclass(frozen=True)
class PenaltySearch:
    """What held-out samples say of each penalty that was tried.

    Args:
        tried: Penalty, accuracy on the held-out samples and evaluations of the objective, from weak to strong.
        start: The classifier of the chosen penalty, fitted without the held-out samples.
    """

    penalty: float
    tried: list[dict[str, float]]
    start: LinearClassifier

    def told(self) -> dict[str, object]:
        """Return what a record says of it."""
        penalties = [each["l2"] for each in self.tried]
        return {"tried": self.tried, "at_the_edge": self.penalty in (penalties[0], penalties[-1])}


def search_penalty(rows: LabelledRows, held_out: LabelledRows) -> PenaltySearch:
    """Search the penalty that is most accurate on held-out samples, of 97 between 1e-6 and 1e6.

    Radford et al. 2021, A.3 (arXiv:2103.00020): seven penalties, two decades apart, then the interval around the best
    one is halved until it has eight steps per decade. Of equally accurate ones the middle one is taken, of two in the
    middle the stronger. Each fit starts from that of the next stronger penalty. The search takes it for granted that
    accuracy has one peak, and so the first pass, which comes from the strongest, ends after two penalties in a row that
    are less accurate than the best.
    """
    fits: dict[int, LinearClassifier] = {}
    accuracies: dict[int, float] = {}

    def attempt(place: int) -> None:
        stronger = [other for other in fits if other > place]
        start, penalty = fits[min(stronger)] if stronger else None, penalty_at(place)
        fits[place] = fit(rows, penalty, start=start, dtype=_digits(rows, penalty), gap=ROUGH)
        hits = fits[place].predict(held_out.features) == held_out.labels
        accuracies[place] = float(hits.double().mean())

    falls = 0
    for place in range(STRONGEST, WEAKEST - 1, -FIRST_STEP):
        if falls < FALLS:
            attempt(place)
            falls = falls + 1 if accuracies[place] < max(accuracies.values()) else 0
    step = FIRST_STEP
    while step > 1:
        step //= 2
        best = _middle_of_best(accuracies)
        for place in (best + step, best - step):
            if WEAKEST <= place <= STRONGEST and place not in fits:
                attempt(place)
    best = _middle_of_best(accuracies)
    tried = [
        {"l2": penalty_at(place), "held_out_acc1": accuracies[place], "evaluations": fits[place].evaluations}
        for place in sorted(fits)
    ]
    return PenaltySearch(penalty_at(best), tried, fits[best])


def _middle_of_best(accuracies: dict[int, float]) -> int:
    equals = sorted(place for place, accuracy in accuracies.items() if accuracy == max(accuracies.values()))
    return equals[len(equals) // 2]


def fit_exactly(rows: LabelledRows, penalty: float, start: LinearClassifier | None = None) -> LinearClassifier:
    """Return the optimum: the way there in float32 where that saves time, the last of it in float64."""
    if _digits(rows, penalty) != torch.float64:
        start = fit(rows, penalty, start=start, dtype=torch.float32, gap=NEAR)
    return fit(rows, penalty, start=start)


def _digits(rows: LabelledRows, penalty: float) -> torch.dtype:
    """Return the type of the products: float32 where it is enough and saves time."""
    is_enough = rows.features.numel() >= LARGE and penalty < STRONG * len(rows)
    return torch.float32 if is_enough else torch.float64


def penalty_at(place: int) -> float:
    """Return a penalty by its place on the grid of eight per decade."""
    return float(10.0 ** (place / PER_DECADE))


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose a share of each class by chance, rounded down, so that a class of one sample keeps it.

    Returns:
        Whether each sample is held out.
    """
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out[members[: int(len(members) * share)]] = True
    return held_out
