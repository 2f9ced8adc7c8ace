"""What terms see of a batch: local embeddings, whole-batch sums, and nothing of the processes behind them."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vlp.ground import dist
from vlp.ground.draws import below_one, uniform
from vlp.ground.types import Embeddings
from vlp.pairs.numbers import all_finite, at_least_float32, harmless
from vlp.pairs.products import products_at
from vlp.pairs.requests import Block, Side

ALONE = ("caption_losses", "region_losses", "hidden_patches", "pixel_changes", "tokens")
OPTIONAL = ("replayed", "reference", "teacher", "negatives", *ALONE)
DIGITS, LETTERS = string.digits, string.ascii_letters


class Pairs:
    """The pairs of one batch, spread over processes.

    Every term returns this process's share of a loss: the shares add up to the loss of the whole batch.
    `mean` and `share` make shares; `total` sees through to the other processes, gradient included.
    Features are gathered on first use, once; all processes must ask for the same things in the same order.
    Terms see finite numbers only: what is NaN or Inf is 0 here, and `finite` says so, for the loss to be spoilt.

    Args:
        embeddings: Of this process's samples; every process has equally many.
        ids: Stable sample ids; `caption_ids`: equal where captions are equal.
        step: Of the training; random numbers follow from it.
        has_twins: Whether a sample stands twice in the whole batch, the same on every process; None looks, where no
            accelerator would have to wait for it, and reckons with twins elsewhere.
        precision: Of the networks that terms bring along; None is that of their parameters.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        ids: Int64[Tensor, " n"],
        caption_ids: Int64[Tensor, " n"],
        group: dist.Group = None,
        *,
        step: int = 0,
        has_twins: bool | None = None,
        precision: torch.dtype | None = None,
    ):
        embeddings = self._look(embeddings)
        self.image = at_least_float32(embeddings.image)
        self.text = at_least_float32(embeddings.text)
        self.scale = at_least_float32(embeddings.scale)
        self.bias = at_least_float32(embeddings.bias)
        self.ids = ids
        self.caption_ids = caption_ids
        self.embeddings = embeddings
        self.group = group
        self.step = step
        self.precision = precision
        self.num_processes = dist.world_size(group)
        self.num_local = len(embeddings.image)
        self.num_pairs = self.num_local * self.num_processes
        self._sides: dict[str, Side] = {}
        self._gathered: dict[str, Tensor] = {}
        self._has_twins = has_twins

    def _look(self, embeddings: Embeddings) -> Embeddings:
        """Remember whether all numbers are finite, and return finite ones."""
        self._finite_here = all_finite(embeddings)
        if self._finite_here.device.type != "cpu" or not bool(self._finite_here):  # an accelerator is not waited for
            return embeddings.each(harmless)
        return embeddings

    @cached_property
    def has_twins(self) -> bool:
        """Whether a sample may stand twice in the whole batch: its twins are no negatives of it, and no positives.

        True is never wrong, False is cheaper.
        """
        if self._has_twins is None:
            return self.ids.device.type != "cpu" or dist.any_equal(self.ids, self.group)
        return self._has_twins

    @cached_property
    def num_copies(self) -> Int64[Tensor, " b"]:
        """How often each sample of the whole batch stands in it."""
        ordered = self.everyones_ids.sort().values
        first, last = (torch.searchsorted(ordered, self.everyones_ids, right=right) for right in (False, True))
        return last - first

    @cached_property
    def num_negatives(self) -> Float64[Tensor, " n"]:
        """How many samples of the whole batch are not this one, for each local sample."""
        if not self.has_twins:
            return self.image.new_full((self.num_local,), self.num_pairs - 1, dtype=torch.float64)
        return (self.num_pairs - self.local_part(self.num_copies)).double()

    @cached_property
    def num_combinations(self) -> Float64[Tensor, ""]:
        """How many ordered combinations of two different samples the whole batch holds."""
        if not self.has_twins:
            return self.image.new_tensor(self.num_pairs * (self.num_pairs - 1), dtype=torch.float64)
        return (self.num_pairs - self.num_copies).double().sum()

    def sum_of_copies(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return for each local sample the sum of its own rows in the whole batch, gradients to all of them."""
        if not self.has_twins:
            return features
        everyone = self.gather_with_gradient(features)
        groups = torch.searchsorted(self.everyones_ids.sort().values, self.everyones_ids)
        sums = torch.zeros_like(everyone).index_add(0, groups, everyone)
        return sums[self.local_part(groups)]

    @cached_property
    def finite(self) -> Bool[Tensor, ""]:
        """Whether all numbers of the whole batch are, the same on every process; on the device."""
        return dist.all_reduce_max((~self._finite_here).float(), self.group) == 0

    @cached_property
    def positive_cosines(self) -> Float[Tensor, " n"]:
        """Cosine of each image with its own text."""
        return (self.image * self.text).sum(dim=1)

    @cached_property
    def positive_logits(self) -> Float[Tensor, " n"]:
        """Scaled cosine of each image with its own text."""
        return self.scale * self.positive_cosines

    def miss(self, wrong: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return -log of the softmax share of each positive, given the log-sum-exp of its negatives.

        Never formed as a difference of two log-sum-exps, which near zero would be rounding noise.
        """
        return torch.logaddexp(wrong - self.positive_logits, wrong.new_zeros(()))

    @cached_property
    def mean_image(self) -> Float[Tensor, " d"]:
        """Mean image embedding of the whole batch, with gradient."""
        return self.total(self.image.sum(dim=0)) / self.num_pairs

    @cached_property
    def mean_text(self) -> Float[Tensor, " d"]:
        """Mean text embedding of the whole batch, with gradient."""
        return self.total(self.text.sum(dim=0)) / self.num_pairs

    @cached_property
    def reference(self) -> Float[Tensor, "n r"] | None:
        """Reference features of this process's samples, of unit norm and without gradient."""
        features = self.embeddings.reference
        return None if features is None else functional.normalize(features.detach(), dim=1)

    @cached_property
    def everyones_ids(self) -> Int64[Tensor, " b"]:
        """Sample ids of the whole batch, the same on every process."""
        return self.gather(self.ids)

    @cached_property
    def _everyones_caption_ids(self) -> Int64[Tensor, " b"]:
        return self.gather(self.caption_ids)

    @property
    def carries(self) -> frozenset[str]:
        """What this batch has beyond two embeddings."""
        optional = {name for name in OPTIONAL if getattr(self.embeddings, name) is not None}
        several = {"features": "image_features", "maps": "image_maps", "taught_maps": "taught_maps"}
        further = {need for need, name in several.items() if getattr(self.embeddings, name)}
        return frozenset({"ids", "caption_ids"} | optional | further)

    @property
    def num_image_views(self) -> int:
        """Views of each image, the leading one included."""
        return 1 + len(self.embeddings.image_views)

    @property
    def num_text_views(self) -> int:
        """Views of each text, the leading one included."""
        return 1 + len(self.embeddings.text_views)

    @property
    def image_names(self) -> tuple[str, ...]:
        """Names of all image views, for `view`, `side` and `block`."""
        return ("image", *(f"image{k}" for k in range(1, self.num_image_views)))

    @property
    def text_names(self) -> tuple[str, ...]:
        """Names of all text views."""
        return ("text", *(f"text{k}" for k in range(1, self.num_text_views)))

    def view(self, name: str) -> Float[Tensor, "n d"]:
        """Return local embeddings by name: `image`, `text`, or further views `image1`, `text1`, `image2` and so on."""
        modality, number = name.rstrip(DIGITS), name.lstrip(LETTERS)
        if not number:
            return self.image if modality == "image" else self.text
        views = self.embeddings.image_views if modality == "image" else self.embeddings.text_views
        return at_least_float32(views[int(number) - 1])

    def side(self, name: str) -> Side:
        """Return embeddings by name as one side of a similarity matrix."""
        if name not in self._sides:
            self._sides[name] = self.side_of(self.view(name))
        return self._sides[name]

    def side_of(self, features: Float[Tensor, "n d"], references: Mapping[str, Tensor] | None = None) -> Side:
        """Return features of this process's samples as one side of a similarity matrix.

        Args:
            features: Any number of rows, as many on every process; one per sample carries the samples' ids.
            references: Local reference features without gradient, by name.
        """
        gathered = {key: self.gather(value) for key, value in (references or {}).items()}
        ids = self.everyones_ids if len(features) == self.num_local and self.has_twins else None
        start = cache(lambda: dist.start_gathering(features, self.group))
        return Side(features, lambda: start().wait(), references=gathered, ids=ids, start=start)

    def block(self, name: str, *, labels: bool = False, references: Iterable[str] = ()) -> Block:
        """Return a similarity matrix for the engine, such as `image_text`, `image_image` or `image1_text`.

        Args:
            labels: Attach caption ids.
            references: Attach reference features: `reference` (of the pair) or `teacher` (of the modality).
        """
        rows, columns = name.split("_")
        names = tuple(references)
        sides = {side: self._attach(side, labels, names) for side in {rows: None, columns: None}}
        return self.block_of(sides[rows], sides[columns])

    def block_of(self, rows: Side, columns: Side) -> Block:
        """Return the similarity matrix of two sides, at the model's scale and bias."""
        return Block(rows, columns, self.scale, self.bias)

    def _attach(self, name: str, labels: bool, references: tuple[str, ...]) -> Side:
        side = self.side(name)
        features = {key: self._reference(key, name.rstrip(DIGITS)) for key in references}
        return replace(side, labels=self._everyones_caption_ids if labels else None, references=features)

    def _reference(self, name: str, modality: str) -> Float[Tensor, "b r"]:
        key = f"{name} of {modality}"
        if key not in self._gathered:
            local = self.reference if name == "reference" else self.teacher(modality)
            assert local is not None, "the objective checks what terms need"
            self._gathered[key] = self.gather(local)
        return self._gathered[key]

    def teacher(self, modality: str) -> Float[Tensor, "n r"] | None:
        """Return the teacher's embeddings of this process's images or texts, without gradient."""
        teacher = self.embeddings.teacher
        if teacher is None:
            return None
        return teacher.image if modality == "image" else teacher.text

    def cosines_at(
        self, anchor: str, other: str, positions: Int64[Tensor, "n k"], *, detach_other: bool = False
    ) -> Float[Tensor, "n k"]:
        """Return the cosines of each local anchor with chosen samples of the whole batch, gradients to both.

        Args:
            anchor: Name of a view, such as `image`; `other` likewise.
            positions: In the whole batch, as `TOPK` answers; entries below 0 give minus infinity.
            detach_other: Give no gradient to the chosen samples.
        """
        side = self.side(other)
        if detach_other:
            others = side.everyone
        else:
            others = side.local if self.num_processes == 1 else _Gather.apply(side.local, side.everyone, self.group)
        cosines = products_at(self.view(anchor), others, positions.clamp(min=0))
        return cosines.masked_fill(positions < 0, -torch.inf)

    def draws(self, count: int, salt: int = 0) -> Float[Tensor, "n count"]:
        """Return uniform random numbers in [0, 1) for each local sample.

        They are a pure function of (sample id, step, salt), whatever the order of the batch or the number of processes.
        """
        return below_one(uniform(self.ids, self.step, salt, count), self.image.dtype)

    def own_network(self) -> Any:
        """Return the context in which a term calls a network of its own; what comes out may be half precision."""
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.image.device.type, self.precision)

    def share(self, value: Tensor) -> Tensor:
        """Return this process's equal share of a number that all processes agree on."""
        return value / self.num_processes

    def mean(self, values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return this process's share of the mean over the whole batch."""
        return values.sum() / self.num_pairs

    def total(self, local: Tensor) -> Tensor:
        """Return the sum over processes of a tensor, the same everywhere; gradients flow to every process."""
        return dist.total(local, self.group)

    def log_total_exp(self, values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return the log-sum-exp over the whole batch, the same on every process; gradients flow to all."""
        largest = dist.all_reduce_max(values.amax(), self.group)
        return self.total((values - largest).exp().sum()).log() + largest

    def gather(self, values: Tensor) -> Tensor:
        """Return rows of the whole batch, the same on every process and without gradient."""
        return dist.all_gather_rows(values, self.group)

    def gather_with_gradient(self, values: Tensor) -> Tensor:
        """Return rows of the whole batch, the same on every process; gradients flow to their owners."""
        return values if self.num_processes == 1 else _Gather.apply(values, self.gather(values), self.group)

    def local_part(self, everyones: Tensor) -> Tensor:
        """Return this process's rows of what `gather` returns."""
        start = dist.rank(self.group) * self.num_local
        return everyones[start : start + self.num_local]

    def sizes(self) -> list[int]:
        """Return how many samples each process has (one small collective)."""
        count = torch.tensor([self.num_local], device=self.image.device)
        return [int(n) for n in dist.all_gather_rows(count, self.group)]


class _Gather(torch.autograd.Function):
    """Everyone's rows, which have been gathered, as a function of the local ones."""

    @staticmethod
    def forward(ctx: Any, _local: Tensor, everyone: Tensor, group: dist.Group) -> Tensor:
        ctx.group = group
        return everyone.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return dist.reduce_scatter_rows(gradient, ctx.group), None, None
