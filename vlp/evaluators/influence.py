"""Numbers of a sample together with what each sample adds to them, which gives their intervals."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

from vlp.evaluators.intervals import linearised
from vlp.ground.types import Metric


class Estimate(NamedTuple):
    """A smooth number of weighted samples and its empirical influence function (Hampel 1974).

    Args:
        influences: Derivative of the number by the weight of each sample, where all weights are 1.
        least: What it cannot fall below.
        most: What it cannot exceed.
    """

    value: float
    influences: Float64[Tensor, " n"]
    least: float = -math.inf
    most: float = math.inf

    def as_metric(self, name: str) -> Metric:
        """Return the number with the interval that its influences give it."""
        influences = self.influences.cpu().numpy()
        return linearised(name, self.value, influences, least=self.least, most=self.most)
