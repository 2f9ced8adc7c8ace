"""Bytes and operations of a recipe's towers, counted on tensors that have shapes and no content."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vlp.ground.types import Batch
from vlp.objectives.base import Objective, Term
from vlp.plan.pretend_batch import images_of, pixel_shape, pretend_batch, pretend_documents, pretend_regions
from vlp.plan.splitting import SplitRows, rows_of
from vlp.plan.storages import kept_by, storage_bytes
from vlp.recipe.model import build_model, without_weights
from vlp.recipe.named_parts import build_objective, build_strategies, load_strategies, teacher_dim_of, widths_of
from vlp.recipe.schema import Recipe
from vlp.step.kept_bytes import KeptBytes
from vlp.step.optimizers.base import optimizers
from vlp.strategies.base import Strategy
from vlp.towers.dual import DualEncoder
from vlp.towers.gated_decoder import GatedDecoder
from vlp.towers.locating_decoder import LocatingDecoder
from vlp.towers.location_layout import SIDES
from vlp.towers.text import can_cut

NEEDS_CONTENT = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)
EQUAL_STEPS = torch.ops.aten.linspace.default
USUAL_LENGTH = 17.0  # tokens of a caption of the web
FEW, MORE = 4, 8  # pairs; what does not grow between them does not depend on the batch


@dataclass(frozen=True)
class TowerCounts:
    """What one tower costs for one sample.

    Args:
        operations: Floating-point operations of matrix products and convolutions, forward and backward.
        forward: Those of the forward pass among them.
        saved: Bytes that the forward pass keeps for the backward pass.
    """

    operations: float
    forward: float
    saved: float


NO_COST = TowerCounts(0.0, 0.0, 0.0)


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
        decoder: The decoder of captions, for one pair.
        clean: The auto-encoder in front on a clean image, where a term looks at that.
        cast: Bytes of weights in the recipe's precision beside their float32 ones.
        tokens: Length that captions are counted with.
        embed_dim: Width of the embeddings.
        image_views: Views of each image that the towers see.
        text_views: Captions of each pair that the towers see.
        matrices: How many similarity matrices the objective walks over; one of fewer coordinates counts as a part.
        pixels: Bytes of one image as it comes to the device.
        moments: Numbers that the optimizer keeps for each trained one, in float32.
        guarded: Numbers that are copied for each trained one while the optimizer steps, to take a bad step back.
        strategies: Operations of strategies, such as the forward pass of a teacher, for one pair.
        uncounted: Parts of the recipe whose operations are not in these numbers.
        rows: Parameters of the towers, by how they can be split over devices.
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
    matrices: float
    pixels: int
    decoder: TowerCounts = NO_COST
    clean: TowerCounts = NO_COST
    moments: float = 2.0
    guarded: float = 0.0
    strategies: float = 0.0
    uncounted: tuple[str, ...] = ()
    rows: tuple[SplitRows, ...] = ()


def count(recipe: Recipe, *, tokens: float | None = None) -> Counts:
    """Count what a recipe needs, without its data and its weights; models that strategies bring are read.

    Args:
        tokens: Mean length of captions, end token included; the whole context where the tower cannot cut.

    Raises:
        RecipeError: A part of the recipe does not fit.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), KnownAside(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are not read here
        towers = build_model(without_weights(recipe.model))
        objective = build_objective(recipe)
        used = build_strategies(recipe)
        with unset_fake_temporarily():
            load_strategies(used)
        objective.create(towers.embed_dim, teacher_dim_of(used), *widths_of(towers, objective))
        for strategy in used.values():
            strategy.borrow(objective.lent())
            strategy.augmented_by(lambda images, _draws: torch.empty(*images.shape[:2], *pixel_shape(towers)))
            strategy.start(towers)
        length = towers.caption_length
        if tokens is not None and can_cut(towers.core.text):
            length = max(2, min(length, round(tokens)))
        image, text, cast = tower_costs(towers, length, recipe.train.number_format)
        decoder, cast_beside = decoder_cost(towers, length, recipe)
        clean = _clean_cost(towers, recipe.train.number_format)
        modules: tuple[nn.Module, ...] = (towers, objective)
        seen = _see(towers, used, recipe, length)
        networks = [label for label, term in objective.terms.items() if any(True for _ in term.parameters())]
        kind = optimizers[recipe.optimizer.type]
        return Counts(
            parameters=sum(value.numel() for value in towers.parameters()),
            trained=sum(value.numel() for module in modules for value in module.parameters() if value.requires_grad),
            weights=sum(_bytes(module) for module in modules),
            beside=storage_bytes(kept_by(used.values())),
            image=image,
            text=text,
            decoder=decoder,
            clean=clean,
            cast=cast + cast_beside,
            tokens=length,
            embed_dim=towers.embed_dim,
            image_views=seen.image_views,
            text_views=seen.text_views,
            matrices=max(1.0, _matrices(objective, towers.embed_dim)),
            pixels=math.prod(pixel_shape(towers)),
            moments=kind.moments + (recipe.optimizer.decay_towards == "start"),
            guarded=0.0 if kind.skips else 1.0 + kind.moments,
            strategies=seen.operations,
            uncounted=(
                *(f"strategies.{label}" for label in seen.uncounted),
                *(f"objective.{label}" for label in networks),
            ),
            rows=rows_of(towers, (towers.core.visual, towers.core.text, towers.decoder)),
        )


def tower_costs(
    towers: DualEncoder, tokens: int, number_format: torch.dtype | None
) -> tuple[TowerCounts, TowerCounts, int]:
    """Return what an image and a caption cost, and the bytes of weights that are cast once, whatever the batch.

    Args:
        tokens: Length of the caption.
        number_format: What autocast computes in; None for float32.
    """
    image, image_cast = _tower(towers, lambda size: _embed_images(towers, size), number_format)
    text, text_cast = _tower(towers, lambda size: _embed_tokens(towers, size, tokens), number_format)
    return image, text, image_cast + text_cast


def decoder_cost(towers: DualEncoder, tokens: int, recipe: Recipe) -> tuple[TowerCounts, int]:
    """Return what a decoder costs for one pair, and the bytes of its weights that are cast once; nothing without one.

    Logits are computed a second time in the backward pass, where others keep them: that is left out.

    Args:
        tokens: Length of captions, and of those of regions.
    """
    decoder, images = towers.decoder, images_of(recipe)
    if decoder is None:
        return NO_COST, 0
    with torch.no_grad():
        _, shown = towers.core.visual(torch.empty(1, *pixel_shape(towers)))
    width, words = decoder.text_projection.shape
    predicted = tokens - 1 + (0 if recipe.data.regions is None else 2 * (tokens - 1 + SIDES))

    def losses(size: int) -> Tensor:
        of_image = torch.empty(
            size, max(1, images) * shown.shape[1], shown.shape[2], requires_grad=not towers.locked_image
        )
        of_text = torch.empty(size, tokens, width, requires_grad=not towers.locked_text)
        words, lengths = torch.zeros(size, tokens, dtype=torch.int64), np.full(size, tokens)
        documents = pretend_documents(images, lengths)
        if documents is not None and isinstance(decoder, GatedDecoder):
            return decoder.document_losses(of_image, of_text, words, documents)
        if isinstance(decoder, LocatingDecoder):
            regions = pretend_regions(recipe, size, tokens)
            told = decoder.tell(of_image, words, lengths, 1, regions, torch.empty(size, 1))
            return told.caption_losses if told.region_losses is None else told.region_losses.sum() + told.caption_losses
        return decoder.losses(of_image, of_text, words, lengths)

    cost, cast = _tower(towers, losses, recipe.train.number_format)
    again = 2.0 * width * words * predicted
    return replace(cost, operations=cost.operations - again * (cost.operations > cost.forward)), cast


class KnownAside(TorchDispatchMode):
    """Compute what has content, such as the lengths of captions, or the equal steps that timm reads, aside."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        known = not any(isinstance(value, FakeTensor) for value in tensors) if tensors else operation is EQUAL_STEPS
        with unset_fake_temporarily() if known else nullcontext():
            return operation(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Seen:
    """What the towers see once strategies have changed the batch, and what strategies compute.

    Args:
        operations: For one pair.
        uncounted: Labels of strategies of which only the content of a batch would tell.
    """

    image_views: int
    text_views: int
    operations: float
    uncounted: tuple[str, ...]


def _see(towers: DualEncoder, used: Mapping[str, Strategy], recipe: Recipe, length: int) -> Seen:
    few, more = (_step(towers, used, pretend_batch(towers, size, recipe, length)) for size in (FEW, MORE))
    return replace(more, operations=(more.operations - few.operations) / (MORE - FEW))


def _step(towers: DualEncoder, used: Mapping[str, Strategy], batch: Batch) -> Seen:
    """Take a batch through the moments of all strategies, as a step does."""
    uncounted: dict[str, None] = {}
    before: Any = FlopCounterMode(display=False)
    after: Any = FlopCounterMode(display=False)
    with torch.no_grad():
        with before:
            for label, strategy in used.items():
                with _noting(label, uncounted):
                    batch = strategy.before_forward(batch)
            images = shown = torch.empty(len(batch.images), len(batch), *pixel_shape(towers))
            for label, strategy in used.items():
                with _noting(label, uncounted):
                    shown = strategy.before_towers(shown, batch)
        embeddings = towers(shown, batch.tokens, batch.lengths.numpy(), interleaved=batch.interleaved)
        with after:
            for label, strategy in used.items():
                with _noting(label, uncounted):
                    embeddings = strategy.after_forward(images, batch, embeddings)
    operations = float(before.get_total_flops() + after.get_total_flops())
    return Seen(len(shown), len(batch.tokens), operations, tuple(uncounted))


@contextmanager
def _noting(label: str, uncounted: dict[str, None]) -> Iterator[None]:
    """Note the label of what only the content of a batch would tell."""
    try:
        yield
    except NEEDS_CONTENT:
        uncounted[label] = None


def _tower(
    towers: DualEncoder, embed: Callable[[int], Tensor], number_format: torch.dtype | None
) -> tuple[TowerCounts, int]:
    """Count a tower with few samples and with more; return what a sample costs, and the bytes that are cast once."""
    few, more = (_pass(towers, partial(embed, size), number_format) for size in (FEW, MORE))
    each = [(larger - smaller) / (MORE - FEW) for smaller, larger in zip(few, more, strict=True)]
    cost = TowerCounts(*each)
    return cost, max(0, round(few[2] - FEW * cost.saved))


def _pass(
    towers: DualEncoder, embed: Callable[[], Tensor], number_format: torch.dtype | None
) -> tuple[float, float, float]:
    """Return the operations of one pass and its gradients, those of the pass alone, and the bytes kept in between."""
    kept = KeptBytes(math.inf, (*towers.parameters(), *towers.buffers()))
    counter: Any = FlopCounterMode(display=False)
    with counter, kept:
        with _autocast(number_format):
            embedded = embed()
        forward = float(counter.get_total_flops())
        saved = kept.bytes
        if embedded.requires_grad:
            embedded.sum().backward()
    for parameter in towers.parameters():
        parameter.grad = None
    return float(counter.get_total_flops()), forward, float(saved)


def _autocast(number_format: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if number_format is None else torch.autocast("cpu", dtype=number_format)


def _embed_images(towers: DualEncoder, count: int) -> Tensor:
    return towers.embed_images(torch.empty(count, *pixel_shape(towers)))


def _clean_cost(towers: DualEncoder, number_format: torch.dtype | None) -> TowerCounts:
    def change(size: int) -> Tensor:
        return towers.pixel_changes(torch.empty(size, *pixel_shape(towers)))

    return _tower(towers, change, number_format)[0] if towers.hands_out_changes else NO_COST


def _embed_tokens(towers: DualEncoder, count: int, length: int) -> Tensor:
    return towers.embed_tokens(torch.zeros(count, length, dtype=torch.int64), np.full(count, length))


def _bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))


def _matrices(objective: Objective, embed_dim: int) -> float:
    found = {
        (objective.widths.get(label, embed_dim), name)
        for label, term in objective.terms.items()
        for name in cast(Term, term).requests
    }
    return sum(width / embed_dim for width, _ in found)
