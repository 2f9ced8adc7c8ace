"""Projection: what a head does to the rows that it reads, in training over a whole batch and afterwards row by row."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from vlp.ground.registry import Registry
from vlp.objectives.shared.view_pairs import Modality
from vlp.pairs import Pairs


class Projection(nn.Module, ABC):
    """A map of each modality's rows; keyword-only arguments of a subclass are its settings in a recipe."""

    @abstractmethod
    def create(self, image_width: int, text_width: int, /) -> int:
        """Make the parameters for rows of these widths; return the width of what comes out, the same for both.

        Raises:
            ValueError: It cannot take these widths.
        """

    @abstractmethod
    def forward(self, modality: Modality, rows: Float[Tensor, "n d"], pairs: Pairs) -> Float[Tensor, "n e"]:
        """Map this process's rows in training; what is normalised sees the whole batch."""

    @abstractmethod
    def at_rest(self, modality: Modality, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Map rows after training, each without the others."""

    def matrix(self, modality: Modality) -> Float[Tensor, "e d"] | None:  # noqa: ARG002
        """Return the map as a matrix where it is one, so that a tower's own projection can take it in."""
        return None

    def gates(self, texts: Float[Tensor, "n d"]) -> Float[Tensor, "n e"] | None:  # noqa: ARG002
        """Return the filter of coordinates, each in (0, 1), that each text opens, where texts open one."""
        return None


projections: Registry[Projection] = Registry("head", "vlp.objectives.projections")
