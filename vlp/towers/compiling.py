"""torch.compile for both towers, so that no number of captions or of their tokens compiles anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from open_clip import CustomTextCLIP
from torch import nn

from vlp.towers.blocks import blocks_of
from vlp.towers.caption_decoder import decoder_of


def compile_towers(core: CustomTextCLIP, *, by_block: bool) -> None:
    """Compile what the towers do when called, and the blocks of a decoder; names stay, and hooks stay outside.

    Call it before anything wraps or shards the towers.

    Args:
        by_block: Compile the blocks of each tower, for towers whose parameters come and go block by block.
    """
    _compile(blocks_of(core.visual) if by_block else [core.visual], any_shape=False)
    _compile(blocks_of(core.text) if by_block else [core.text], any_shape=True)
    decoder = decoder_of(core)
    _compile(() if decoder is None else blocks_of(decoder), any_shape=True)


def _compile(modules: Iterable[nn.Module], *, any_shape: bool) -> None:
    """Compile each module's forward.

    Args:
        any_shape: Once for all shapes: every bucket of captions has another length.
    """
    for module in modules:
        # nn.Module.compile would put hooks into the graph and count all modules as one function that varies
        module.forward = torch.compile(module.forward, dynamic=True if any_shape else None)
