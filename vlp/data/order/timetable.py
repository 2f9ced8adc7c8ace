"""How the shares of several sources change over training, summed and inverted in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlp.data.order.batch_sizes import BatchSizes


class Ramp:
    """A weight per step: `start` until `first_step`, `end` from `last_step`, a straight line between.

    Args:
        start: Value before and at `first_step`.
        end: Value from `last_step` on; None keeps `start` for ever.
        first_step: Where the change begins.
        last_step: Where the change ends.

    Raises:
        ValueError: A weight below 0 or 0 throughout, `end` without a `last_step` after `first_step`, or steps
            without `end`.
    """

    def __init__(self, *, start: float, end: float | None = None, first_step: int = 0, last_step: int = 0):
        if end is None and (first_step or last_step):
            raise ValueError("first_step and last_step have no effect without end: set end or leave them out")
        if end is not None and not 0 <= first_step < last_step:
            raise ValueError(f"last_step {last_step} must come after first_step {first_step} when end is set")
        if not (min(start, end or 0) >= 0 and 0 < max(start, end or 0) < np.inf):
            raise ValueError("a share is a number above 0: leave a source out that should never come")
        self.start = float(start)
        self.end = self.start if end is None else float(end)
        self.first_step = first_step
        self.last_step = last_step

    def __call__(self, step: int) -> float:
        """Return the weight at a step, counted from 0."""
        return float(np.interp(step, (self.first_step, self.last_step), (self.start, self.end)))


class Timetable:
    """How much of each source is wanted by which time.

    At the steps that the ramps name, shares are weights divided by their sum; between them shares change in straight
    lines. A time is a position; amounts are samples, and fractions of them.

    Args:
        ramps: Weight of each source.
        sizes: Samples of each step.

    Raises:
        ValueError: At some step all weights are 0.
    """

    def __init__(self, ramps: Sequence[Ramp], sizes: BatchSizes):
        named = (step for ramp in ramps for step in (ramp.first_step, ramp.last_step))
        steps = sorted({0, *named, *sizes.numbers})  # where batches grow, a line of steps has a bend in time
        weights = np.array([[ramp(step) for step in steps] for ramp in ramps])
        totals = weights.sum(axis=0)
        if not totals.all():
            raise ValueError(f"all shares are 0 at step {steps[int(totals.argmin())]}")
        self._times = np.array([sizes.start(step) for step in steps], dtype=np.float64)
        self._shares = weights / totals
        spans = np.diff(self._times)
        zero = np.zeros((len(ramps), 1))
        self._slopes = np.hstack([np.diff(self._shares) / spans, zero])
        grown = (self._shares[:, 1:] + self._shares[:, :-1]) / 2 * spans
        self._amounts = np.hstack([zero, np.cumsum(grown, axis=1)])

    def amounts_at(self, time: float) -> NDArray[np.float64]:
        """Return how much of each source is wanted by a time."""
        piece = int(np.searchsorted(self._times, time, side="right")) - 1
        passed = time - self._times[piece]
        return self._amounts[:, piece] + (self._shares[:, piece] + self._slopes[:, piece] / 2 * passed) * passed

    def times_of(self, sources: NDArray[np.int64], amounts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return when a source reaches an amount above 0: infinity where it never does."""
        piece = (self._amounts[sources] < amounts[:, None]).sum(axis=1) - 1
        share, slope = self._shares[sources, piece], self._slopes[sources, piece]
        missing = amounts - self._amounts[sources, piece]
        # The stable solution of `share * t + slope / 2 * t^2 = missing`; rounding may leave the root just below 0.
        root = np.sqrt(np.maximum(share**2 + 2 * slope * missing, 0))
        with np.errstate(divide="ignore"):
            return self._times[piece] + 2 * missing / (share + root)
