"""Images of several sizes in one training, a size for each batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from vlp.ground.draws import pick, uniform
from vlp.ground.types import Batch, RecipeError
from vlp.strategies.base import Strategy, strategies
from vlp.towers.dual import DualEncoder
from vlp.towers.resized_positions import positions_of, take_any_size

SALT = 101


@strategies.register("sequence_lengths")
class SequenceLengths(Strategy):
    """Draw for each batch how many patches its images have, so that one model takes images of all these sizes.

    The sampling of sequence lengths of SigLIP 2's NaFlex variant (Tschannen et al. 2025, arXiv:2502.14786: 128, 256,
    576, 784 and 1024, with equal chances), on square images; for their own aspect ratio there is `data.max_patches`.
    `model.image.image_size` is the largest size; images are shrunk on the device, and position embeddings of vision
    transformers interpolated on the way in, as for `small_first`. Which length a step has follows from `seed` and the
    step alone; evaluations and exports have the model's own size.

    Args:
        lengths: Numbers of patches, each the square of a whole number.
        seed: Other numbers give another order of lengths.

    Raises:
        ValueError: No lengths, or one that is no square.
    """

    changes_captions = False

    def __init__(self, *, lengths: tuple[int, ...], seed: int = 0):
        self._rows = [round(max(length, 0) ** 0.5) for length in lengths]
        if not lengths or [rows**2 for rows in self._rows] != [*lengths] or min(lengths) < 1:
            raise ValueError(f"lengths {[*lengths]} must be squares of whole numbers, such as 144, 256 and 576")
        self.lengths = lengths
        self.seed = seed
        self._sides: list[int] = []
        self._step = 0

    def start(self, model: DualEncoder) -> None:
        visual = model.core.visual
        positions = positions_of(visual)
        if positions is None:
            raise RecipeError(
                "strategies.sequence_lengths: the image tower has no position embeddings of patches that could be "
                "interpolated: use a vision transformer of open_clip or timm, or leave the strategy out"
            )
        rows, columns = positions.grid
        if rows != columns or max(self._rows) > rows:
            raise RecipeError(
                f"strategies.sequence_lengths.lengths: the image tower cuts images into {rows} x {columns} patches: "
                "choose squares up to that, and a square model.image.image_size"
            )
        self._sides = [number * positions.patch[0] for number in self._rows]
        take_any_size(visual)

    def before_step(self, step: int, wanted: frozenset[str]) -> None:
        self._step = step

    def before_forward(self, batch: Batch) -> Batch:
        side = self._sides[self._drawn(self._step)]
        if side == batch.images.shape[2]:
            return batch
        small = resize(batch.images.movedim(-1, -3), [side, side], antialias=True)
        return replace(batch, images=small.movedim(-3, -1))

    def _drawn(self, step: int) -> int:
        number: Tensor = pick(uniform(torch.tensor([self.seed]), step, SALT, 1), len(self.lengths))
        return int(number)  # on the CPU, where nobody waits
