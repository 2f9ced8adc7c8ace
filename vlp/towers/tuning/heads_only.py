"""Train what stands behind the blocks of both towers."""

from __future__ import annotations

from open_clip import CustomTextCLIP

from vlp.ground.types import RecipeError
from vlp.towers.tuning.base import Tuning, keep_training, towers_of, tunings


@tunings.register("heads")
class Heads(Tuning):
    """Train the projections, poolers and last norms of both towers, and no block: a few percent of the parameters."""

    def apply(self, core: CustomTextCLIP) -> None:
        """Lock blocks and embeddings.

        Raises:
            RecipeError: A tower ends with its last block.
        """
        for side, tower in towers_of(core):
            if not keep_training(tower, lambda behind: behind == 0):
                raise RecipeError(
                    f"model.tune: the {side} tower has nothing behind its last block that could train: use "
                    "model.tune=last_blocks"
                )
