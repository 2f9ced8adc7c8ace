"""Which point between a start and an end is taken, by scores on half of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlp.evaluators.record import Record
from vlp.merging.scoring import mean_score
from vlp.run.score_history import ROUNDING


@dataclass(frozen=True)
class Point:
    """One point on the line.

    Args:
        share: Of the end.
        own: Records of the tasks that the end was trained for, on the choosing half.
        kept: Of those that it should not have lost.
    """

    share: float
    own: Sequence[Record]
    kept: Sequence[Record]

    @property
    def own_score(self) -> float:
        """The mean of the main metrics of its own tasks."""
        return mean_score(self.own)

    @property
    def kept_score(self) -> float:
        """The same of the tasks that are kept."""
        return mean_score(self.kept)

    @property
    def mean(self) -> float:
        """What counts where nothing else is asked for: gained and kept alike."""
        return (self.own_score + self.kept_score) / 2


def choose(points: Sequence[Point], most_lost: float | None) -> Point:
    """Return the best point; of equal ones the one nearest to the start.

    Args:
        points: The start among them, as share 0.
        most_lost: How many points of a hundred the kept score may lie below that of the start, where own is to be as
            high as it can; None takes the highest mean of own and kept.
    """
    ordered = sorted(points, key=lambda point: point.share)
    if most_lost is None:
        return max(ordered, key=lambda point: point.mean)
    least = ordered[0].kept_score - most_lost / 100 - ROUNDING
    return max((point for point in ordered if point.kept_score >= least), key=lambda point: point.own_score)


def rule_in_words(most_lost: float | None) -> str:
    """Say how a point is chosen."""
    if most_lost is None:
        return "the highest mean of own and kept score"
    return f"the highest own score whose kept score is at most {most_lost:g} points below that of the start"
