"""How many samples each batch of a run has: a pure function of its number, and so is where it begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


class BatchSizes:
    """Batches of several sizes, one stage after the other.

    Args:
        last: Samples of a batch of the whole job once the first stages are over.
        first: Samples of a batch, and how many batches have so many, stage by stage.

    Raises:
        ValueError: A number below 1, or a stage of larger batches than the last ones.
    """

    def __init__(self, last: int, first: Sequence[tuple[int, int]] = ()):
        if last < 1 or any(size < 1 or batches < 1 for size, batches in first):
            raise ValueError("sizes of batches and numbers of steps must be at least 1")
        if (most := max((size for size, _ in first), default=last)) > last:
            raise ValueError(f"batches of {most} are larger than those at the end, which have {last}")
        self.last = last
        self.sizes = (*(size for size, _ in first), last)
        self.numbers = (0, *accumulate(batches for _, batches in first))  # of the batch that begins each stage
        self._starts = (0, *accumulate(size * batches for size, batches in first))

    def size(self, number: int) -> int:
        """Return the samples of a batch."""
        return self.sizes[_stage(self.numbers, number)]

    def start(self, number: int) -> int:
        """Return the samples in front of a batch: the position where it begins."""
        stage = _stage(self.numbers, number)
        return self._starts[stage] + (number - self.numbers[stage]) * self.sizes[stage]

    def number_at(self, position: int) -> int:
        """Return the number of the batch that begins at a position.

        Raises:
            ValueError: None does.
        """
        stage = _stage(self._starts, position)
        batches, inside = divmod(position - self._starts[stage], self.sizes[stage])
        if inside:
            raise ValueError(f"position {position} lies inside a batch")
        return self.numbers[stage] + batches

    def count(self, samples: float) -> int:
        """Return how many batches have so many samples together, the last one perhaps more."""
        stage = max(number for number, start in enumerate(self._starts) if start < max(samples, 1))
        return self.numbers[stage] - int(-(samples - self._starts[stage]) // self.sizes[stage])


def _stage(begins: Sequence[int], value: int) -> int:
    return max(stage for stage, begin in enumerate(begins) if begin <= value)
