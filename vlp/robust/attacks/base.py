"""What an attack is."""

from __future__ import annotations

from typing import Annotated, Literal

from jaxtyping import Float32, Int64
from pydantic import Field
from torch import Tensor

from vlp.ground.registry import Registry
from vlp.robust.findings import Found, Outcome
from vlp.robust.problem import Problem
from vlp.robust.stage import Stage

PIXELS = "/255"
Radii = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
Side = Literal["images", "texts"]


class Attack:
    """Change inputs within a radius so that the model goes wrong; the keyword-only arguments are its settings.

    An attack on the pixels of each image by itself overrides `perturb`, any other one `change`.

    Attributes:
        side: What it changes.
        needs_gradients: Whether it asks a model for gradients.
        radii: Its own radii; None for those that the file of attacks names.
        unit: What a radius is told in, behind the number.
        passes: How often it shows each image to the model, about.
        card: Name of the data that it learns from, where it does.
    """

    side: Side = "images"
    needs_gradients: bool = True
    radii: tuple[float, ...] | None = None
    unit: str = PIXELS
    passes: int = 1
    card: str = ""

    def change(self, stage: Stage, radius: float) -> Outcome:
        """Attack all samples of a set; called by all processes together.

        Args:
            radius: In `unit`.
        """
        return stage.change_images(self.perturb, radius)

    def perturb(
        self, problem: Problem, pixels: Float32[Tensor, "n 3 h w"], radius: float, ids: Int64[Tensor, " n"]
    ) -> Found:
        """Return pixels no further than `radius` from these that do as badly as the attack can make them.

        A pure function of what it is given: whatever is drawn at random depends on ids.

        Args:
            pixels: In [0, 1].
            radius: In the unit of the pixels.
        """
        raise NotImplementedError


attacks: Registry[Attack] = Registry("attack", "vlp.robust.attacks")
