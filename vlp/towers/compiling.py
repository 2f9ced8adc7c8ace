"""torch.compile for both towers, so that no number of captions or of their tokens compiles anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from open_clip import CustomTextCLIP
from torch import nn

from vlp.towers.blocks import blocks_of
from vlp.towers.caption_decoder import decoder_of

MOST_GRAPHS = 64
"""Of one class of blocks, which may serve both towers, teachers and decoders, with gradients and without; torch stops
at 8 and computes the others as they are."""


def compile_towers(core: CustomTextCLIP, *, whole: bool) -> None:
    """Compile the blocks of both towers and of a decoder; names stay, and hooks stay outside.

    Blocks of a kind share one graph, as far as they are called alike.

    Call it before anything wraps or shards the towers.

    Args:
        whole: Compile each tower as one graph in place of its blocks; not for towers whose parameters come and go block
            by block.
    """
    from torch._dynamo import config  # a second of import, which only compiled runs should pay

    config.recompile_limit = max(config.recompile_limit, MOST_GRAPHS)
    _compile([core.visual] if whole else _parts_of(core.visual), any_shape=False)
    _compile([core.text] if whole else _parts_of(core.text), any_shape=True)
    decoder = decoder_of(core)
    _compile(() if decoder is None else blocks_of(decoder), any_shape=True)


def _parts_of(tower: nn.Module) -> list[nn.Module]:
    """Return a tower's blocks, or the tower where it has none."""
    return list(blocks_of(tower)) or [tower]


def _compile(modules: Iterable[nn.Module], *, any_shape: bool) -> None:
    """Compile each module's forward.

    Args:
        any_shape: Once for all shapes: every bucket of captions has another length.
    """
    for module in modules:
        # nn.Module.compile would put hooks into the graph and count all modules as one function that varies
        module.forward = torch.compile(module.forward, dynamic=True if any_shape else None)
