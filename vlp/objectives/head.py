"""Heads: what stands between the towers and a term, and goes when training ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlp.ground.types import Embeddings, RecipeError
from vlp.objectives.projections.base import Projection
from vlp.objectives.shared.view_pairs import Modality
from vlp.pairs import DerivedPairs, Pairs

Reads = Literal["embeddings", "features"]
HeadViews = Literal["all", "further"]
LARGEST_SCALE = 100.0


class TrainedHead(Protocol):
    """What a trained head can tell: embeddings of its own, and the matrix that it is, if it is one."""

    @property
    def reads(self) -> Reads:
        """Unit embeddings, or what the towers know before their own projections."""

    @property
    def own_scale(self) -> float | None:
        """Inverse temperature; None where it is the model's."""

    @property
    def width(self) -> int:
        """Coordinates of its embeddings."""

    def embed(self, modality: Modality, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Return unit rows, each without the others."""

    def matrix(self, modality: Modality) -> Float[Tensor, "e d"] | None:
        """Return the map before normalisation as a matrix, where it is one."""

    def gates(self, texts: Float[Tensor, "n d"]) -> Float[Tensor, "n e"] | None:
        """Return the filter of coordinates that each text opens, where texts open one."""

    def tensors(self) -> Sequence[Tensor]:
        """Return all that tells one such head from another."""


class OffersHeads(Protocol):
    """What has heads of its own, as some terms do."""

    def offered_heads(self) -> Mapping[str, TrainedHead]:
        """Return those that can be evaluated, by name."""


@dataclass(frozen=True)
class MatrixHead:
    """One matrix of each modality, or several whose unit rows stand side by side; cosines are then their mean.

    Args:
        matrices: By modality, one above the other.
    """

    matrices: Mapping[str, Float[Tensor, "c e d"]]
    reads: Reads = "embeddings"
    own_scale: float | None = None

    @property
    def width(self) -> int:
        """Coordinates of its embeddings."""
        count, width, _ = self.matrices["image"].shape
        return count * width

    def embed(self, modality: Modality, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Return unit rows, each without the others."""
        matrices = self.matrices[modality]
        parts = functional.normalize(torch.einsum("nd,ced->nce", rows, matrices), dim=2)
        return parts.flatten(1) / math.sqrt(len(matrices))

    def matrix(self, modality: Modality) -> Float[Tensor, "e d"] | None:
        """Return the matrix, where it is one."""
        matrices = self.matrices[modality]
        return matrices[0] if len(matrices) == 1 else None

    def gates(self, texts: Float[Tensor, "n d"]) -> Float[Tensor, "n e"] | None:  # noqa: ARG002
        """Return None: a matrix looks at texts as at images."""
        return None

    def tensors(self) -> Sequence[Tensor]:
        """Return all that tells one such head from another."""
        return list(self.matrices.values())


def find_head(name: str, heads: Mapping[str, Head], offering: Mapping[str, OffersHeads]) -> TrainedHead:
    """Return a head by its label, or one that a term offers, by the term's label and perhaps `.NUMBER`.

    Raises:
        RecipeError: There is none.
    """
    known: dict[str, TrainedHead] = dict(heads)
    for label, term in offering.items():
        known |= {f"{label}.{part}".rstrip("."): head for part, head in term.offered_heads().items()}
    if name not in known:
        raise RecipeError(f"no head is called '{name}' (known: {', '.join(known) or 'none'})")
    return known[name]


class Head(nn.Module):
    """A projection, what it reads, and a scale of its own.

    Args:
        projection: Maps the rows.
        reads: The unit embeddings, or what the towers know before their own projections.
        views: Whether terms behind it see every view, or those behind the first alone, the next one leading.
        init_scale: Inverse temperature at the start, which trains; None takes the model's.
    """

    def __init__(self, projection: Projection, reads: Reads, views: HeadViews, init_scale: float | None):
        super().__init__()
        self.projection = projection
        self.reads = reads
        self.views = views
        self.width = 0
        self.log_scale = None if init_scale is None else nn.Parameter(torch.tensor(math.log(init_scale)))

    def create(self, embed_dim: int, features: tuple[int, int] | None) -> None:
        """Make the parameters.

        Args:
            features: Widths of what the towers know before their projections, of images and of texts.
        """
        widths = (embed_dim, embed_dim) if self.reads == "embeddings" or features is None else features
        self.width = self.projection.create(*widths)

    @property
    def own_scale(self) -> float | None:
        """Inverse temperature; None where it is the model's."""
        return None if self.log_scale is None else self._scale().item()

    def embed(self, modality: Modality, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Return unit rows, each without the others."""
        return functional.normalize(self.projection.at_rest(modality, rows), dim=-1)

    def matrix(self, modality: Modality) -> Float[Tensor, "e d"] | None:
        """Return the map before normalisation as a matrix, where it is one."""
        return self.projection.matrix(modality)

    def gates(self, texts: Float[Tensor, "n d"]) -> Float[Tensor, "n e"] | None:
        """Return the filter of coordinates that each text opens, where texts open one."""
        return self.projection.gates(texts)

    def tensors(self) -> Sequence[Tensor]:
        """Return all that tells one such head from another."""
        return [*self.parameters(), *self.buffers()]

    def seen(self, pairs: Pairs) -> Embeddings:
        """Return the embeddings behind the head.

        Raises:
            ValueError: There is but one view of each, and it is to see the others.
        """
        whole = pairs.embeddings
        images, texts = self._shown("image", pairs), self._shown("text", pairs)
        if self.views == "further" and len(images) == len(pairs.image_names) and len(texts) == len(pairs.text_names):
            raise ValueError("a head with views: further needs data.views, data.text_views or strategies.image_views")
        negatives = whole.negatives if self.reads == "embeddings" else None
        if negatives is not None:
            rows = self._unit("text", negatives.flatten(0, 1), pairs)
            negatives = rows.unflatten(0, negatives.shape[:2])
        return replace(
            whole,
            image=images[0],
            text=texts[0],
            image_views=images[1:],
            text_views=texts[1:],
            scale=whole.scale if self.log_scale is None else self._scale().to(whole.scale.dtype),
            negatives=negatives,
        )

    def _shown(self, modality: Modality, pairs: Pairs) -> tuple[Tensor, ...]:
        """Return the views of a modality behind the head."""
        names = pairs.image_names if modality == "image" else pairs.text_names
        if self.reads == "features":
            features = pairs.embeddings.image_features if modality == "image" else pairs.embeddings.text_features
            views = features[: len(names)]
        else:
            views = tuple(pairs.view(name) for name in names)
        if self.views == "further" and len(views) > 1:
            views = views[1:]
        return tuple(self._unit(modality, rows, pairs) for rows in views)

    def _unit(self, modality: Modality, rows: Tensor, pairs: Pairs) -> Tensor:
        return functional.normalize(self.projection(modality, rows, pairs), dim=-1)

    def _scale(self) -> Float[Tensor, ""]:
        """Return the scale, held between 1 and its largest value; the gradient passes as if it were not."""
        assert self.log_scale is not None, "asked of heads that have one"
        held = self.log_scale.detach().clamp(0.0, math.log(LARGEST_SCALE))
        return (held + (self.log_scale - self.log_scale.detach())).exp()


class HeadPairs(DerivedPairs):
    """Pairs as terms see them that stand behind a head."""

    def __init__(self, whole: Pairs, head: Head):
        super().__init__(whole, head.seen(whole))
