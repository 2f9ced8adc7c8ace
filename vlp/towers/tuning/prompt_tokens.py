"""Train tokens beside those of images and captions, and no weight of either tower."""

from __future__ import annotations

import numpy as np
import torch
from open_clip import CustomTextCLIP
from pydantic import NonNegativeInt, PositiveInt
from torch import nn

from vlp.ground.errors import said_by
from vlp.ground.types import RecipeError
from vlp.towers.learned_tokens import add_prompts, prompt_image, prompt_text, promptable
from vlp.towers.token_table import token_table
from vlp.towers.trial_inputs import one_image, one_text
from vlp.towers.tuning.base import Tuning, keep_training, towers_of, tunings

LEAST = 3  # tokens of a caption that are left: its start, a word and its end
LONGEST = 200  # letters of another library's error


@tunings.register("prompts")
class PromptTokens(Tuning):
    """Train prompt tokens: vectors in front of every caption (CoOp) and beside the patches of every image (VPT).

    Zhou et al. 2022, equation 2, one context for all captions (arXiv:2109.01134); Jia et al. 2022, equations 4 to 8
    (arXiv:2203.12119). Some ten thousand numbers, or a hundred thousand; the start's own weights stay what they are,
    bit for bit. Captions have as many tokens less.

    Args:
        text: Vectors behind the start token of every caption; 0 for none, which locks the text tower.
        image: Tokens beside the patches, for each block that has some; 0 for none, which locks the image tower.
        depth: Blocks of the image tower with tokens of their own: 1 is VPT-shallow, null (all) VPT-deep.
        heads: Train what stands behind the last block too: projections, poolers and norms.
    """

    def __init__(
        self,
        *,
        text: NonNegativeInt = 4,
        image: NonNegativeInt = 8,
        depth: PositiveInt | None = None,
        heads: bool = False,
    ):
        if not text and not image:
            raise RecipeError("model.tune: prompts of neither tower train nothing: set text or image above 0")
        if depth is not None and not image:
            raise RecipeError("model.tune.depth: has no effect with image=0: leave it out")
        self.counts = {"image": image, "text": text}
        self.depth = depth
        self.heads = heads

    def apply(self, core: CustomTextCLIP) -> None:
        """Lock the towers and give them prompt tokens.

        Raises:
            RecipeError: A tower cannot take further tokens; says why, and what to set.
        """
        for _, tower in towers_of(core):
            keep_training(tower, lambda behind: self.heads and behind == 0)
        if self.counts["text"]:
            _check_text(core, self.counts["text"])
            prompt_text(core.text, self.counts["text"])
        if self.counts["image"]:
            self._prompt_image(core.visual)
        _try(core, self.counts["text"])

    def _prompt_image(self, visual: nn.Module) -> None:
        tower = promptable(visual)
        if tower is None:
            kind = type(getattr(visual, "trunk", visual)).__name__
            raise RecipeError(
                f"model.tune.image: a {kind} takes no tokens beside its patches, a VisionTransformer of open_clip or "
                "timm does: set model.tune.image=0"
            )
        blocks = len(tower.blocks)
        if self.depth is not None and self.depth > blocks:
            raise RecipeError(f"model.tune.depth: the image tower has {blocks} blocks: set {blocks} or less, or null")
        prompt_image(tower, self.counts["image"], self.depth or blocks)


def _check_text(core: CustomTextCLIP, count: int) -> None:
    kind = type(token_table(core.text))
    if kind is not nn.Embedding:
        raise RecipeError(
            f"model.tune.text: the text tower looks its tokens up in a {kind.__name__}, which does more than look up: "
            "set model.tune.text=0"
        )
    if (left := core.context_length - count) < LEAST:
        raise RecipeError(
            f"model.tune.text: of the {core.context_length} tokens of the context {left} would be left: set "
            f"{core.context_length - LEAST} or less, or a longer model.text.context_length"
        )


@torch.no_grad()
def _try(core: CustomTextCLIP, count: int) -> None:
    """Run each tower once.

    Raises:
        RecipeError: It does not take the tokens.
    """
    was_training = core.training
    core.eval()
    try:
        core.visual(one_image(core.visual))
        core.text(
            add_prompts(one_text(core.text, core.context_length - count), np.ones(1, dtype=np.int64), count, 1)[0]
        )
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise RecipeError(f"model.tune: a tower does not take prompt tokens: {said_by(error, LONGEST)}") from error
    finally:
        core.train(was_training)
