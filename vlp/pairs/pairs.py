"""What terms see of a batch: local embeddings, whole-batch sums, and nothing of the processes behind them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vlp import dist
from vlp.pairs.requests import Block, Side
from vlp.types import Embeddings


class Pairs:
    """The pairs of one batch, spread over processes.

    Every term returns this process's share of a loss: the shares add up to the loss of the whole batch.
    `mean` and `share` make shares; `total` sees through to the other processes, gradient included.
    Features are gathered on first use, once; all processes must ask for the same things in the same order.

    Args:
        embeddings: Of this process's samples; every process has equally many.
        ids: Stable sample ids; `caption_ids`: equal where captions are equal.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        ids: Int64[Tensor, " n"],
        caption_ids: Int64[Tensor, " n"],
        group: dist.Group = None,
    ):
        self.image = embeddings.image
        self.text = embeddings.text
        self.scale = embeddings.scale
        self.bias = embeddings.bias
        self.ids = ids
        self.caption_ids = caption_ids
        self.embeddings = embeddings
        self.group = group
        self.num_processes = dist.world_size(group)
        self.num_local = len(embeddings.image)
        self.num_pairs = self.num_local * self.num_processes

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
    def images(self) -> Side:
        """Local images with gradient, everyone's without."""
        return Side(self.image, dist.all_gather_rows(self.image, self.group))

    @cached_property
    def texts(self) -> Side:
        """Local texts with gradient, everyone's without."""
        return Side(self.text, dist.all_gather_rows(self.text, self.group))

    @cached_property
    def _everyones_caption_ids(self) -> Int64[Tensor, " b"]:
        return dist.all_gather_rows(self.caption_ids, self.group)

    @cached_property
    def _everyones_reference(self) -> Float[Tensor, "b r"] | None:
        return None if self.reference is None else dist.all_gather_rows(self.reference, self.group)

    def block(self, name: str, *, labels: bool = False, reference: bool = False) -> Block:
        """Return a similarity matrix for the engine: `image_text`, `image_image` or `text_text`.

        Args:
            labels: Attach caption ids.
            reference: Attach reference features.
        """
        sides = {"image": lambda: self.images, "text": lambda: self.texts}
        rows, columns = name.split("_")
        return Block(
            rows=sides[rows](),
            columns=sides[columns](),
            scale=self.scale,
            bias=self.bias,
            labels=self._everyones_caption_ids if labels else None,
            reference=self._everyones_reference if reference else None,
        )

    def share(self, value: Tensor) -> Tensor:
        """Return this process's equal share of a number that all processes agree on."""
        return value / self.num_processes

    def mean(self, values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return this process's share of the mean over the whole batch."""
        return values.sum() / self.num_pairs

    def total(self, local: Tensor) -> Tensor:
        """Return the sum over processes of a tensor, the same everywhere; gradients flow to every process."""
        return local if self.num_processes == 1 else _Total.apply(local, self.group)

    def log_total_exp(self, values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return the log-sum-exp over the whole batch, the same on every process; gradients flow to all."""
        largest = dist.all_reduce_max(values.amax(), self.group)
        return self.total((values - largest).exp().sum()).log() + largest

    @cached_property
    def everyones_ids(self) -> Int64[Tensor, " b"]:
        """Sample ids of the whole batch, the same on every process."""
        return self.gather(self.ids)

    def gather(self, values: Tensor) -> Tensor:
        """Return rows of the whole batch, the same on every process and without gradient."""
        return dist.all_gather_rows(values, self.group)

    def local_part(self, everyones: Tensor) -> Tensor:
        """Return this process's rows of what `gather` returns."""
        start = dist.rank(self.group) * self.num_local
        return everyones[start : start + self.num_local]

    def sizes(self) -> list[int]:
        """Return how many samples each process has (one small collective)."""
        count = torch.tensor([self.num_local], device=self.image.device)
        return [int(n) for n in dist.all_gather_rows(count, self.group)]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, group: dist.Group) -> Tensor:
        ctx.group = group
        return dist.all_reduce_sum(local, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return dist.all_reduce_sum(gradient, ctx.group), None
