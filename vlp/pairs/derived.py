"""Pairs whose embeddings follow from those of others; samples, captions and processes are theirs."""

from __future__ import annotations

from functools import cached_property

from jaxtyping import Int64
from torch import Tensor

from vlp.ground.types import Embeddings
from vlp.pairs.pairs import Pairs


class DerivedPairs(Pairs):
    """The pairs of another batch with other embeddings; what other processes have is not gathered again.

    Args:
        whole: The batch.
        embeddings: What follows from its embeddings, as finite as they are.
    """

    def __init__(self, whole: Pairs, embeddings: Embeddings):
        self._whole = whole
        super().__init__(
            embeddings,
            whole.ids,
            whole.caption_ids,
            whole.group,
            step=whole.step,
            has_twins=whole.has_twins,
            precision=whole.precision,
        )

    def _look(self, embeddings: Embeddings) -> Embeddings:
        self._finite_here = self._whole._finite_here
        return embeddings  # of finite ones

    @cached_property
    def everyones_ids(self) -> Int64[Tensor, " b"]:
        """Sample ids of the whole batch, the same on every process."""
        return self._whole.everyones_ids

    @cached_property
    def _everyones_caption_ids(self) -> Int64[Tensor, " b"]:
        return self._whole._everyones_caption_ids
