"""What an attack leaves: changed inputs while it searches, and what the model says of them afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from vlp.robust.problem import Judged


@dataclass(frozen=True)
class Found:
    """What an attack makes of a batch.

    Args:
        inputs: The changed inputs.
        is_blind: For which samples the first gradient was zero, or no number; None where no gradient was asked for.
    """

    inputs: Tensor
    is_blind: Bool[Tensor, " n"] | None = None


class Worst:
    """The inputs of each sample that did worst so far: wrong ones before others, and of these the highest loss.

    Args:
        inputs: Unchanged ones, which stay where nothing is added.
    """

    def __init__(self, inputs: Tensor):
        self.inputs = inputs.clone()
        self.loss = inputs.new_full((len(inputs),), -torch.inf)
        self.is_wrong = torch.zeros_like(self.loss, dtype=torch.bool)

    @property
    def left(self) -> Int64[Tensor, " k"]:
        """Places of the samples that nothing made wrong."""
        return (~self.is_wrong).nonzero()[:, 0]

    def add(self, inputs: Tensor, judged: Judged, places: Int64[Tensor, " k"] | None = None) -> None:
        """Take what does worse.

        Args:
            places: Of the samples that these are, where they are not all.
        """
        at = slice(None) if places is None else places
        was_wrong, loss, before = self.is_wrong[at], self.loss[at], self.inputs[at]
        worse = torch.where(was_wrong == judged.is_wrong, judged.loss > loss, judged.is_wrong)
        self.inputs[at] = torch.where(worse.view(-1, *[1] * (inputs.ndim - 1)), inputs, before)
        self.loss[at] = torch.where(worse, judged.loss, loss)
        self.is_wrong[at] = was_wrong | judged.is_wrong


def blind(gradient: Tensor) -> Bool[Tensor, " n"]:
    """Return for which samples a gradient says nothing: zero everywhere, or somewhere no number."""
    rows = gradient.flatten(1)
    return (rows == 0).all(dim=1) | ~rows.isfinite().all(dim=1)


@dataclass(frozen=True)
class Outcome:
    """What an attack did to a set, sample by sample.

    Args:
        rows: What the model says of the changed inputs, embedded afresh.
        distance: Largest change of a coordinate, in the unit of radii.
        least: Smallest coordinate, and `most`, the largest.
        is_blind: For which samples the first gradient said nothing; None for attacks without gradients.
        texts: The changed texts, of an attack that writes some.
        pictures: Of the samples that are shown, by place in the set: base64 WebP by name (`picture_of`).
        layers: What the blocks of the image tower say, averaged over places, where that was asked for.
    """

    rows: Float32[Tensor, "n d"]
    distance: Float32[Tensor, " n"]
    least: float = 0.0
    most: float = 0.0
    is_blind: Bool[Tensor, " n"] | None = None
    texts: tuple[str, ...] = ()
    pictures: dict[str, dict[str, str]] = field(default_factory=dict)
    layers: tuple[Float32[Tensor, "n w"], ...] = ()
