"""Which share of a device's peak the model's own operations take: model FLOP utilisation (Chowdhery et al. 2022, B)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from vlp.ground import dist
from vlp.ground.float32 import tf32
from vlp.ground.types import Batch
from vlp.plan.counts import Counts, count
from vlp.plan.devices import known_as
from vlp.recipe.schema import Recipe

SIDE = 8192  # of matrices whose product says what a device can do
SHORT, LONG = 8.0, 32.0  # captions between which operations are interpolated


class ModelOperations:
    """Operations of matrix products and convolutions that a training's steps need, forward and backward.

    What is computed a second time to save memory does not count, nor does the padding of captions, nor the loss.

    Args:
        counted: Counts the recipe's operations with captions of a length; asked once somebody wants to know.
    """

    def __init__(self, counted: Callable[[float], Counts]):
        self._counted = counted
        self._pairs = self._seen = self._tokens = self._squares = 0.0

    def add(self, batch: Batch) -> None:
        """Take note of a batch's pairs, whether their images are embedded, and of the lengths of their captions."""
        lengths = batch.lengths[0].numpy()  # on the CPU, always
        self._pairs += len(lengths)
        self._seen += 0 if batch.blank is not None and bool(batch.blank.all()) else len(lengths)
        self._tokens += float(lengths.sum())
        self._squares += float((lengths**2).sum())

    def take(self) -> float:
        """Return the operations of one pair, on average since the last call; 0 where there was none."""
        if not self._pairs:
            return 0.0
        by_image, fixed, by_token, by_square = self._costs
        total = self._seen * by_image + self._pairs * fixed + self._tokens * by_token + self._squares * by_square
        mean = total / self._pairs
        self._pairs = self._seen = self._tokens = self._squares = 0.0
        return mean

    @cached_property
    def _costs(self) -> tuple[float, float, float, float]:
        """Operations of an image, of a pair whatever its caption, of a token, and of a token for each that it sees."""
        short, long = self._counted(SHORT), self._counted(LONG)
        by_image, fixed = short.image_views * short.image.operations, short.strategies
        of_captions = [each.text_views * each.text.operations + each.decoder.operations for each in (short, long)]
        if long.tokens == short.tokens:  # captions are filled up
            return by_image, fixed + of_captions[0], 0.0, 0.0
        per_token = [operations / each.tokens for operations, each in zip(of_captions, (short, long), strict=True)]
        by_square = (per_token[1] - per_token[0]) / (long.tokens - short.tokens)
        by_token = per_token[0] - by_square * short.tokens
        return by_image, fixed, by_token, by_square


class Utilisation:
    """Model FLOP utilisation of a GPU.

    Its peak is that of the maker's data sheet, or what a large product reaches on a device that is not known.

    Args:
        reads_texts: Whether captions are embedded at each step; where embeddings are kept, none of them counts.
    """

    def __init__(self, recipe: Recipe, device: torch.device, *, reads_texts: bool = True):
        def counted(tokens: float) -> Counts:
            found = count(recipe, tokens=tokens)
            return found if reads_texts else replace(found, text_views=0)

        self.operations = ModelOperations(counted)
        self._precision = recipe.train.precision
        self._device = device

    def metrics(self, pairs_per_second: float) -> dict[str, float]:
        """Return `mfu` since the last call; nothing on the CPU, and where nobody writes it.

        Args:
            pairs_per_second: Of this process.
        """
        if self._device.type != "cuda" or not dist.is_main():
            return {}
        return {"mfu": self.operations.take() * pairs_per_second / self._peak}

    @cached_property
    def _peak(self) -> float:
        known = known_as(torch.cuda.get_device_name(self._device))
        if known:
            return known.rate(self._precision)
        with tf32():
            return product_rate(self._device, torch.float32 if self._precision == "float32" else torch.bfloat16, SIDE)


def product_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Return the operations per second that a product of square matrices reaches."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / fastest(partial(torch.matmul, left, right), device)


def fastest(work: Callable[[], Any], device: torch.device, repeats: int = 3) -> float:
    """Return the seconds of the fastest of some calls, after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def wait(device: torch.device) -> None:
    """Let a device finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
