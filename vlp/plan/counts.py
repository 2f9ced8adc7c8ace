"""Bytes and operations of a recipe's towers, counted on tensors that have shapes and no content."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from vlp.objectives.base import Objective, Term
from vlp.recipe.model import build_model, without_weights
from vlp.recipe.schema import Recipe, settings
from vlp.run.assemble import build_objective
from vlp.strategies.base import Strategy, strategies
from vlp.towers.dual import DualEncoder
from vlp.towers.text import can_cut

FEW, MORE = 4, 8  # pairs; what does not grow between them does not depend on the batch


@dataclass(frozen=True)
class TowerCounts:
    """What one tower costs for one sample.

    Args:
        operations: Floating-point operations of matrix products and convolutions, forward and backward.
        saved: Bytes that the forward pass keeps for the backward pass.
    """

    operations: float
    saved: float


@dataclass(frozen=True)
class Counts:
    """What a recipe holds and computes, whatever it runs on.

    Args:
        parameters: Number of parameters of both towers.
        trained: How many of them are trained, those of terms included.
        weights: Bytes of towers and terms.
        beside: Bytes that strategies keep: averages, teachers, queues.
        image: One view of one image.
        text: One caption of `tokens` tokens.
        cast: Bytes of weights in the recipe's precision beside their float32 ones.
        tokens: Length that captions are counted with.
        embed_dim: Width of the embeddings.
        image_views: Views of each image that the towers see.
        text_views: Captions of each pair that the towers see.
        matrices: How many similarity matrices the objective walks over.
        pixels: Bytes of one image as it comes to the device.
    """

    parameters: int
    trained: int
    weights: int
    beside: int
    image: TowerCounts
    text: TowerCounts
    cast: int
    tokens: int
    embed_dim: int
    image_views: int
    text_views: int
    matrices: int
    pixels: int


def count(recipe: Recipe, *, tokens: float | None = None) -> Counts:
    """Count what a recipe needs, without its data and its weights.

    Args:
        tokens: Mean length of captions, end token included; the whole context where the tower cannot cut.

    Raises:
        RecipeError: A part of the recipe does not fit.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are not read here
        towers = build_model(without_weights(recipe.model))
        objective = build_objective(recipe)
        objective.create(towers.embed_dim)
        used = [strategies.build(entry.type, settings(entry, "type")) for entry in recipe.strategies.values()]
        for strategy in used:
            strategy.start(towers)
        length = towers.context_length
        if tokens is not None and can_cut(towers.core.text):
            length = max(2, min(length, round(tokens)))
        number_format = recipe.train.number_format
        image, image_cast = _tower(towers, lambda count: _embed_images(towers, count), number_format)
        text, text_cast = _tower(towers, lambda count: _embed_tokens(towers, count, length), number_format)
        modules: tuple[nn.Module, ...] = (towers, objective)
        side = towers.image_size
        negatives = recipe.data.captions.negatives
        return Counts(
            parameters=sum(value.numel() for value in towers.parameters()),
            trained=sum(value.numel() for module in modules for value in module.parameters() if value.requires_grad),
            weights=sum(_bytes(module) for module in modules),
            beside=_beside(used),
            image=image,
            text=text,
            cast=image_cast + text_cast,
            tokens=length,
            embed_dim=towers.embed_dim,
            image_views=1 + sum(view.count for view in recipe.data.views.values()),
            text_views=1
            + sum(view.count for view in recipe.data.text_views.values())
            + (negatives.count if negatives else 0),
            matrices=max(1, _matrices(objective)),
            pixels=3 * (side * side if isinstance(side, int) else int(np.prod(side))),
        )


def _tower(
    towers: DualEncoder, embed: Callable[[int], Tensor], number_format: torch.dtype | None
) -> tuple[TowerCounts, int]:
    """Count a tower with few samples and with more; return what a sample costs, and the bytes that are cast once."""
    found = [_pass(towers, partial(embed, count), number_format) for count in (FEW, MORE)]
    (few_operations, few_saved), (operations, saved) = found
    each = MORE - FEW
    per_sample = (saved - few_saved) / each
    return TowerCounts((operations - few_operations) / each, per_sample), max(0, round(few_saved - FEW * per_sample))


def _pass(towers: DualEncoder, embed: Callable[[], Tensor], number_format: torch.dtype | None) -> tuple[float, int]:
    """Return the operations of one pass and its gradients, and the bytes kept between them."""
    known = {id(value.untyped_storage()) for value in (*towers.parameters(), *towers.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        if id(value.untyped_storage()) not in known:
            kept[value.untyped_storage()._cdata] = value
        return value

    counter: Any = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(keep, lambda value: value):
        with _autocast(number_format):
            embedded = embed()
        saved = sum(value.untyped_storage().nbytes() for value in kept.values())
        if embedded.requires_grad:
            embedded.sum().backward()
    for parameter in towers.parameters():
        parameter.grad = None
    return float(counter.get_total_flops()), saved


def _autocast(number_format: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if number_format is None else torch.autocast("cpu", dtype=number_format)


def _embed_images(towers: DualEncoder, count: int) -> Tensor:
    side = towers.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return towers.embed_images(torch.empty(count, 3, height, width))


def _embed_tokens(towers: DualEncoder, count: int, length: int) -> Tensor:
    return towers.embed_tokens(torch.zeros(count, length, dtype=torch.int64), np.full(count, length))


def _bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))


def _beside(used: list[Strategy]) -> int:
    values = [value for strategy in used for value in {**(strategy.weights() or {}), **strategy.state_dict()}.values()]
    storages = {value.untyped_storage()._cdata: value.untyped_storage().nbytes() for value in values}
    return sum(storages.values())


def _matrices(objective: Objective) -> int:
    return len({name for term in objective.terms.values() for name in cast(Term, term).requests})
