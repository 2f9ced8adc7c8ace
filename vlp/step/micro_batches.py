"""Gradients of a large batch in the memory of a small one, exact for every parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlp.ground.float32 import whole_float32
from vlp.ground.randomness import GOLDEN, MASK, mix
from vlp.ground.types import Batch, Embeddings, Teacher

Embed = Callable[[Batch], Embeddings]
Evaluate = Callable[[Embeddings], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Seeds:
    """Seeds of dropout: a pure function of (seed, step, process, micro-batch), so a pass can be repeated."""

    seed: int
    step: int
    process: int

    def set(self, micro_batch: int) -> None:
        """Seed torch's generators for one micro-batch."""
        mixed = self.seed
        for part in (self.step, self.process, micro_batch):
            mixed = _scrambled(mixed ^ _scrambled(part + 1))
        torch.manual_seed(mixed)


def backward(
    micro_batches: Sequence[Batch],
    embed: Embed,
    evaluate: Evaluate,
    seeds: Seeds,
    *,
    no_sync: Callable[[], Any] = nullcontext,
    together: Callable[[], Any] = nullcontext,
    exchange: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the objective once on all micro-batches and leave its gradients on the parameters.

    With several micro-batches: embed all of them without a graph, differentiate the objective by the embeddings,
    then embed each again with the same random state and continue backward from there
    (Gao et al. 2021, arXiv:2101.06983). With one micro-batch the towers run once: an ordinary backward in two parts.

    Args:
        micro_batches: This process's share of the batch, in pieces.
        embed: Towers; scale and bias take part in each call.
        evaluate: Embeddings of the whole share to (loss, report).
        no_sync: Context in which gradients are not exchanged between processes.
        together: Context of what meets no other process, where `exchange` is off.
        exchange: Whether gradients are exchanged while the last pass goes on.

    Returns:
        The loss and the report of the objective, both detached.
    """
    last = len(micro_batches) - 1
    in_last = nullcontext if exchange else no_sync
    if last == 0:
        with together(), in_last():
            seeds.set(0)
            embeddings = embed(micro_batches[0])
        leaves = _join([embeddings], with_graph=True)
        loss, report = _differentiate(evaluate, leaves)
        with together():
            _inject(embeddings, leaves, 0, len(micro_batches[0]), is_last=True)
        return loss, report
    with together():
        pieces = [_embed_without_graph(embed, batch, seeds, k) for k, batch in enumerate(micro_batches)]
    leaves = _join(pieces, with_graph=False)
    loss, report = _differentiate(evaluate, leaves)
    with together():
        for k, batch in enumerate(micro_batches):
            with in_last() if k == last else no_sync():
                seeds.set(k)
                _inject(embed(batch), leaves, k, len(batch), is_last=k == last)
    return loss, report


def _differentiate(evaluate: Evaluate, leaves: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
    """Evaluate the objective and leave its gradients on the embeddings, with all digits of float32."""
    with whole_float32():
        loss, report = evaluate(leaves)
        loss.backward()
    return loss.detach(), report


def _embed_without_graph(embed: Embed, batch: Batch, seeds: Seeds, micro_batch: int) -> Embeddings:
    seeds.set(micro_batch)
    with torch.no_grad():
        return embed(batch)


def _join(parts: Sequence[Embeddings], *, with_graph: bool) -> Embeddings:
    """Concatenate along the samples; every embedding becomes a leaf that collects its gradient.

    Args:
        with_graph: The parts have one, which says what needs no gradient: that of a locked tower.
    """

    def leaf(values: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(values)).detach().requires_grad_(values[0].requires_grad or not with_graph)

    def one(value: Tensor) -> Tensor:
        return value.detach().requires_grad_(value.requires_grad or not with_graph)

    def together(pick: Callable[[Embeddings], Tensor | None]) -> Tensor | None:
        values = [value for value in map(pick, parts) if value is not None]
        return torch.cat(values) if values else None

    first = parts[0]
    teachers = [part.teacher for part in parts if part.teacher is not None]
    picks: tuple[Callable[[Embeddings], Tensor | None], ...] = (
        lambda part: part.negatives,
        lambda part: part.caption_losses,
        lambda part: part.region_losses,
        lambda part: part.hidden_patches,
        lambda part: part.pixel_changes,
    )
    negatives, losses, of_regions, hidden, changes = (
        None if (found := together(pick)) is None else one(found) for pick in picks
    )
    return Embeddings(
        image=leaf([part.image for part in parts]),
        text=leaf([part.text for part in parts]),
        scale=one(first.scale),
        bias=one(first.bias),
        image_views=tuple(leaf(views) for views in zip(*(part.image_views for part in parts), strict=True)),
        text_views=tuple(leaf(views) for views in zip(*(part.text_views for part in parts), strict=True)),
        image_features=tuple(leaf(views) for views in zip(*(part.image_features for part in parts), strict=True)),
        text_features=tuple(leaf(views) for views in zip(*(part.text_features for part in parts), strict=True)),
        reference=together(lambda part: part.reference),
        negatives=negatives,
        teacher=Teacher(*(torch.cat(rows) for rows in zip(*map(_said, teachers), strict=True))) if teachers else None,
        image_maps=tuple(leaf(maps) for maps in zip(*(part.image_maps for part in parts), strict=True)),
        taught_maps=tuple(torch.cat(maps) for maps in zip(*(part.taught_maps for part in parts), strict=True)),
        image_cuts=tuple(torch.cat(cuts) for cuts in zip(*(part.image_cuts for part in parts), strict=True)),
        hidden_patches=hidden,
        taught_patches=together(lambda part: part.taught_patches),
        pixel_changes=changes,
        replayed=together(lambda part: part.replayed),
        caption_losses=losses,
        caption_words=together(lambda part: part.caption_words),
        region_losses=of_regions,
        region_words=together(lambda part: part.region_words),
        # of one part no copy: nearly no term reads them
        tokens=first.tokens if len(parts) == 1 else together(lambda part: part.tokens),
        token_counts=first.token_counts if len(parts) == 1 else together(lambda part: part.token_counts),
        negative_tokens=first.negative_tokens if len(parts) == 1 else together(lambda part: part.negative_tokens),
        negative_token_counts=(
            first.negative_token_counts if len(parts) == 1 else together(lambda part: part.negative_token_counts)
        ),
    )


def _said(teacher: Teacher) -> tuple[Tensor, ...]:
    return tuple(teacher.numbers())


def _inject(embeddings: Embeddings, leaves: Embeddings, index: int, size: int, *, is_last: bool) -> None:
    """Continue backward from the gradients at the leaves; scale and bias hand theirs over once, in the last pass."""
    rows = slice(index * size, (index + 1) * size)
    surrogate = embeddings.scale.new_zeros(())
    for output, leaf in zip(_rows(embeddings), _rows(leaves), strict=True):
        if leaf.grad is not None:
            surrogate = surrogate + (output * leaf.grad[rows]).sum()
        else:
            surrogate = surrogate + 0.0 * output.sum()
    for output, leaf in ((embeddings.scale, leaves.scale), (embeddings.bias, leaves.bias)):
        share = leaf.grad if is_last and leaf.grad is not None else torch.zeros_like(leaf)
        surrogate = surrogate + output * share
    surrogate.backward()


def _rows(embeddings: Embeddings) -> tuple[Tensor, ...]:
    losses = (embeddings.caption_losses, embeddings.region_losses)
    optional = (embeddings.negatives, *losses, embeddings.hidden_patches, embeddings.pixel_changes)
    further = (part for part in optional if part is not None)
    views = (*embeddings.image_views, *embeddings.text_views)
    features = (*embeddings.image_features, *embeddings.text_features, *embeddings.image_maps)
    return (embeddings.image, embeddings.text, *views, *features, *further)


def _scrambled(value: int) -> int:
    """Return 63 bits that all depend on all of a value's."""
    return mix((value + GOLDEN) & MASK) & (MASK >> 1)
