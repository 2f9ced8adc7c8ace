"""The first coordinates of embeddings, which may stand for the whole (Matryoshka, Kusupati et al. 2022)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vlp.ground.types import Embeddings, Teacher
from vlp.pairs.pairs import Pairs
from vlp.pairs.requests import Side


class PrefixPairs(Pairs):
    """Pairs whose embeddings are the first coordinates of others, made unit again; all else is theirs.

    Features are gathered once for all widths. Teachers of the embeddings' own width are cut with them, others and
    references stay as they are.

    Args:
        width: How many coordinates.
    """

    def __init__(self, whole: Pairs, width: int):
        super().__init__(
            prefix_of(whole.embeddings, width),
            whole.ids,
            whole.caption_ids,
            whole.group,
            step=whole.step,
            has_twins=whole.has_twins,
            precision=whole.precision,
        )
        self._whole = whole
        self._width = width

    def side(self, name: str) -> Side:
        """Return embeddings by name as one side of a similarity matrix."""
        if name not in self._sides:
            whole = self._whole.side(name)
            gather = cache(lambda: first_coordinates(whole.everyone, self._width))
            self._sides[name] = replace(whole, local=self.view(name), gather=gather)
        return self._sides[name]


def prefix_of(embeddings: Embeddings, width: int) -> Embeddings:
    """Return embeddings cut to their first coordinates, of unit norm."""
    teacher, negatives = embeddings.teacher, embeddings.negatives
    if teacher is not None and teacher.image.shape[-1] == embeddings.image.shape[-1]:
        teacher = Teacher(first_coordinates(teacher.image, width), first_coordinates(teacher.text, width))
    return replace(
        embeddings,
        image=first_coordinates(embeddings.image, width),
        text=first_coordinates(embeddings.text, width),
        image_views=tuple(first_coordinates(view, width) for view in embeddings.image_views),
        text_views=tuple(first_coordinates(view, width) for view in embeddings.text_views),
        negatives=None if negatives is None else first_coordinates(negatives, width),
        teacher=teacher,
    )


def first_coordinates(features: Float[Tensor, "... d"], width: int) -> Float[Tensor, "... w"]:
    """Return the first coordinates, of unit norm."""
    return functional.normalize(features[..., :width], dim=-1)
