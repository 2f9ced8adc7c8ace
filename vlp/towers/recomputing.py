"""Selective recomputation: blocks keep what is expensive for the backward pass, and compute the rest again."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from vlp.ground.types import RecipeError
from vlp.towers.blocks import blocks_of
from vlp.towers.unpadded_attention import OPERATIONS

aten = torch.ops.aten
PRODUCTS = {op.default for op in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten._scaled_mm, aten.convolution)}
PRODUCTS |= OPERATIONS
DROPOUT = "dropout_p"  # an argument of every kernel of attention
RESPECTS = "respect_saved_tensors_hooks"  # whoever counts bytes sees all of them; earlier torch does not know it
COUNTED: dict[str, Any] = {RESPECTS: True} if RESPECTS in inspect.signature(checkpoint).parameters else {}


def keep_products(*towers: nn.Module) -> None:
    """Let the blocks of towers keep matrix products, convolutions and attention, and recompute all else.

    Chen et al. 2016 (arXiv:1604.06174), section 3, who keep what is expensive; Korthikanti et al. 2022
    (arXiv:2205.05198), section 5. Call it before anything compiles or shards the towers: it changes what a block
    computes when called, inside of its hooks.

    Raises:
        RecipeError: A tower has no blocks.
    """
    for tower in towers:
        blocks = list(_innermost(tower))
        if not blocks:
            raise RecipeError("model.grad_checkpointing: a tower has no blocks that it knows: leave 'selective' out")
        for block in blocks:
            block.forward = MethodType(_keep_products, block)  # which a copy of the block gets as its own


def _innermost(tower: nn.Module) -> Iterator[nn.Module]:
    """Yield blocks, those inside of a stage in its place: what is recomputed at once should be little."""
    for block in blocks_of(tower):
        inner = list(_innermost(block))
        yield from inner or (block,)


def _keep_products(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return type(block).forward(block, *inputs, **named)
    contexts = partial(create_selective_checkpoint_contexts, _choose)
    return checkpoint(_compute, block, *inputs, use_reentrant=False, context_fn=contexts, **COUNTED, **named)


def _compute(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    """Call a block's own forward with casts of its own.

    A second pass in one autocast would find casts of the first, and its recomputation would not: it must do the same
    operations in the same order.
    """
    device = next(block.parameters()).device.type
    with torch.autocast(device, enabled=torch.is_autocast_enabled(device), cache_enabled=False):
        return type(block).forward(block, *inputs, **named)


def _choose(_context: Any, operation: Any, *inputs: Any, **named: Any) -> CheckpointPolicy:
    keeps = operation in PRODUCTS or _dropout_of(operation, inputs, named) == 0.0
    return CheckpointPolicy.MUST_SAVE if keeps else CheckpointPolicy.PREFER_RECOMPUTE


def _dropout_of(operation: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> float | None:
    """Return the dropout of a kernel of attention, None of anything else.

    One that drops is computed again: it would not draw its random numbers, and what follows would draw others.
    """
    arguments = getattr(getattr(operation, "_schema", None), "arguments", ())
    for place, argument in enumerate(arguments):
        if argument.name == DROPOUT:
            found: float = named.get(DROPOUT, inputs[place] if place < len(inputs) else argument.default_value)
            return found
    return None
