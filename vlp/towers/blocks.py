"""What a tower repeats: the units that are compiled and sharded."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from vlp.towers.caption_decoder import CaptionDecoder

CONTAINERS = (nn.ModuleList, nn.Sequential)


def blocks_of(tower: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks of any tower: what stands in a row with its like, is called as a whole and has parts.

    Residual blocks of open_clip's and transformers' towers, blocks or stages of timm's; the outermost ones.
    """
    if isinstance(tower, CaptionDecoder):  # its two rows take turns
        yield from (block for block, _ in tower.in_order())
        return
    for child in tower.children():
        row = [module for module in child.children() if _has_parameters(module)]
        if isinstance(child, CONTAINERS) and len({type(module) for module in row}) == 1 and _is_block(row[0]):
            yield from row
        else:
            yield from blocks_of(child)


def _is_block(module: nn.Module) -> bool:
    return not isinstance(module, CONTAINERS) and any(True for _ in module.children())


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
