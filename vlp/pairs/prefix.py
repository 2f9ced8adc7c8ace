"""Pairs as terms see them who read the first coordinates of embeddings alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from jaxtyping import Float
from torch import Tensor

from vlp.ground.coordinates import first_coordinates
from vlp.ground.types import Embeddings
from vlp.pairs.derived import DerivedPairs
from vlp.pairs.pairs import Pairs
from vlp.pairs.requests import Side


class PrefixPairs(DerivedPairs):
    """Pairs whose embeddings are the first coordinates of others, made unit again; all else is theirs.

    Whatever other processes have is gathered once for all widths. Teachers of the embeddings' own width are cut with
    them, others and references stay as they are.

    Args:
        width: How many coordinates.
    """

    def __init__(self, whole: Pairs, width: int):
        self._width = width
        super().__init__(whole, prefix_of(whole.embeddings, width))

    def _reference(self, name: str, modality: str) -> Float[Tensor, "b r"]:
        whole = self._whole._reference(name, modality)
        is_cut = name == "teacher" and self.embeddings.teacher is not self._whole.embeddings.teacher
        return first_coordinates(whole, self._width) if is_cut else whole

    def side(self, name: str) -> Side:
        """Return embeddings by name as one side of a similarity matrix."""
        if name not in self._sides:
            whole = self._whole.side(name)
            gather = cache(lambda: first_coordinates(whole.everyone, self._width))
            self._sides[name] = replace(whole, local=self.view(name), gather=gather, cut=whole, start=None)
        return self._sides[name]


def prefix_of(embeddings: Embeddings, width: int) -> Embeddings:
    """Return embeddings cut to their first coordinates, of unit norm."""
    teacher, negatives = embeddings.teacher, embeddings.negatives
    if teacher is not None and teacher.image.shape[-1] == embeddings.image.shape[-1]:
        teacher = teacher.each(lambda rows: first_coordinates(rows, width))
    return replace(
        embeddings,
        image=first_coordinates(embeddings.image, width),
        text=first_coordinates(embeddings.text, width),
        image_views=tuple(first_coordinates(view, width) for view in embeddings.image_views),
        text_views=tuple(first_coordinates(view, width) for view in embeddings.text_views),
        negatives=None if negatives is None else first_coordinates(negatives, width),
        teacher=teacher,
    )
