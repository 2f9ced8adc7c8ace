"""Learned tokens beside those of an image or a caption, for towers whose weights stay as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from vlp.ground.types import RecipeError
from vlp.towers.token_table import token_table

PROMPTS = "prompts"  # what learned tokens are called within the embedding or the block that they belong to
TEXT_DEVIATION = 0.02


class PromptedEmbedding(nn.Embedding):
    """An embedding of tokens with learned ones: -1 is the id of the first, -2 that of the second.

    No tower takes such an id for padding, for an end, or for the highest there is.
    """

    prompts: nn.Parameter

    def forward(self, input: Int64[Tensor, "*l"]) -> Float[Tensor, "*l w"]:
        """Look tokens up."""
        known = super().forward(input.clamp(min=0))
        learned = F.embedding((-1 - input).clamp(min=0), self.prompts)
        return torch.where((input < 0)[..., None], learned, known)


# ---------------------------------------- captions
def prompt_text(tower: nn.Module, count: int) -> None:
    """Give a text tower so many learned tokens, small ones at random (CoOp, Zhou et al. 2022, section 4.1)."""
    table = token_table(tower)
    table.__class__ = PromptedEmbedding
    prompts = torch.empty(count, table.embedding_dim, device=table.weight.device)
    table.register_parameter(PROMPTS, nn.Parameter(nn.init.normal_(prompts, std=TEXT_DEVIATION)))


def prompted(text: nn.Module) -> Float[Tensor, "m w"] | None:
    """Return the learned tokens of a text tower, where it has any."""
    table = token_table(text)
    return table.prompts if isinstance(table, PromptedEmbedding) else None


def count_prompts(text: nn.Module) -> int:
    """Return how many learned tokens a text tower has."""
    prompts = prompted(text)
    return 0 if prompts is None else len(prompts)


def add_prompts(
    tokens: Int64[Tensor, "n l"], lengths: Int64[NDArray[np.int64], " n"], count: int, place: int
) -> tuple[Int64[Tensor, "n m"], Int64[NDArray[np.int64], " n"]]:
    """Put the ids of learned tokens into every caption.

    Args:
        place: Tokens of a caption that stay in front of them: its start token, where there is one.
    """
    learned = -1 - torch.arange(count, device=tokens.device).expand(len(tokens), -1)
    return torch.cat([tokens[:, :place], learned, tokens[:, place:]], dim=1), lengths + count


# ---------------------------------------- images
class Promptable(NamedTuple):
    """What of an image tower takes any number of tokens.

    Args:
        blocks: Those of a vision transformer.
        width: Width of a token.
        patch: Height and width of a patch in pixels.
    """

    blocks: Sequence[nn.Module]
    width: int
    patch: tuple[int, int]


def promptable(visual: nn.Module) -> Promptable | None:
    """Return the blocks of a vision transformer of open_clip or timm; None of a tower that counts its tokens."""
    if isinstance(visual, VisionTransformer):
        return Promptable(list(visual.transformer.resblocks), visual.transformer.width, visual.patch_size)
    trunk = visual.trunk if isinstance(visual, TimmModel) else None
    if not isinstance(trunk, TimmVisionTransformer):
        return None
    return Promptable(list(trunk.blocks), trunk.embed_dim, trunk.patch_embed.patch_size)


def prompt_image(tower: Promptable, count: int, depth: int) -> None:
    """Give learned tokens to the blocks of an image tower; what pools behind the last does not see them.

    Jia et al. 2022, equations 4 to 8 (arXiv:2203.12119), with their uniform start. They stand behind the patches, which
    is the same as before them: neither has a position.

    Args:
        count: Tokens of each block.
        depth: How many blocks have tokens of their own, from the first; the others see what becomes of the last ones.
    """
    for number, block in enumerate(tower.blocks):
        block.num_prompts = count  # type: ignore[assignment]
        if number < depth:
            prompts = torch.empty(count, tower.width, device=next(block.parameters()).device)
            most = math.sqrt(6 / (3 * math.prod(tower.patch) + tower.width))
            block.register_parameter(PROMPTS, nn.Parameter(nn.init.uniform_(prompts, -most, most)))
            block.register_forward_pre_hook(_exchange if number else _append)
    tower.blocks[-1].register_forward_hook(_leave_out)


def has_image_prompts(visual: nn.Module) -> bool:
    """Whether an image tower has learned tokens."""
    tower = promptable(visual)
    return tower is not None and any(hasattr(block, PROMPTS) for block in tower.blocks)


# No closures: a copy of a tower calls these with blocks of its own.
def _append(block: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    tokens, *others = inputs
    learned = block.prompts.to(tokens.dtype).expand(len(tokens), *block.prompts.shape)
    return torch.cat([tokens, learned], dim=1), *others


def _exchange(block: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    tokens, *others = inputs
    return _append(block, (tokens[:, : -block.num_prompts], *others))


def _leave_out(block: Any, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return output[:, : -block.num_prompts]


# ---------------------------------------- both
def is_prompt(name: str) -> bool:
    """Whether a tensor of this name is learned tokens."""
    return name.endswith(f".{PROMPTS}")


@torch.no_grad()
def take_prompts(core: nn.Module, learned: Mapping[str, Tensor], source: str) -> None:
    """Begin with learned tokens that came with weights.

    Args:
        learned: By name; without any, those of the model stay.
        source: What to call the weights.

    Raises:
        RecipeError: The model has others.
    """
    ours = {name: parameter for name, parameter in core.named_parameters() if is_prompt(name)}
    shapes = [{name: tuple(value.shape) for name, value in each.items()} for each in (learned, ours)]
    if learned and shapes[0] != shapes[1]:
        said = ", ".join(f"{name} {shape}" for name, shape in list(shapes[0].items())[:2])
        raise RecipeError(
            f"model.tune: the weights in '{source}' go with learned tokens ({said}, ...), and these towers have "
            f"{'none' if not ours else 'others'}: set model.tune as it stands in the run's recipe.lock.yaml, or start "
            "from an export, which has those of captions among its words"
        )
    for name, value in learned.items():
        ours[name].copy_(value)
