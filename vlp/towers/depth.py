"""How deep a parameter lies in its tower: how many blocks come behind it."""

from __future__ import annotations

from torch import nn

from vlp.towers.blocks import blocks_of

LAST = (
    *("proj", "head", "norm", "fc_norm", "ln_post", "ln_final", "text_projection", "attn_pool", "attnpool", "pooler"),
    *("final_norm", "final_layer_norm", "conv_head", "norm_head", "bn2"),
)
"""What towers of open_clip, timm and transformers call what comes behind their blocks."""
WRAPPERS = ("trunk", "transformer", "encoder", "model", "backbone")
"""What they call what holds the rest."""


def blocks_behind(tower: nn.Module) -> dict[str, int]:
    """Return, for each parameter of a tower, the blocks that come behind what it belongs to.

    Embeddings lie before all blocks; norms, poolers, heads and projections that stand in no block lie behind the last.
    A parameter of the last block has one block's distance from those: its own.
    """
    blocks = list(blocks_of(tower))
    place = {id(parameter): number for number, block in enumerate(blocks) for parameter in block.parameters()}
    found = {}
    for name, parameter in tower.named_parameters():
        if id(parameter) in place:
            found[name] = len(blocks) - place[id(parameter)]
        else:
            first = next(part for part in name.split(".") if part not in WRAPPERS)
            found[name] = 0 if first in LAST else len(blocks) + 1
    return found


def names_in_blocks(tower: nn.Module) -> set[str]:
    """Return the names of the parameters that belong to a block of a tower."""
    inside = {id(parameter) for block in blocks_of(tower) for parameter in block.parameters()}
    return {name for name, parameter in tower.named_parameters() if id(parameter) in inside}
