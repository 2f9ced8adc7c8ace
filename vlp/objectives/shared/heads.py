"""Heads on embeddings that see the whole job's batch, however many processes hold it; thrown away after training."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlp.pairs import Pairs, at_least_float32

EPSILON = 1e-5  # that of torch's batch norm
FLOOR = 0.01  # of a direct map's gains, relative to the largest


class Perceptron(nn.Module):
    """Linear layers; between two of them batch normalisation and a rectifier.

    Args:
        widths: Of the input, of every hidden layer and of the output.
        norm: The normalisation; the usual one has no running averages, for nobody evaluates most heads.
    """

    def __init__(self, *widths: int, norm: type[BatchNorm] | None = None):
        super().__init__()
        last = len(widths) - 2
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=k == last) for k, (a, b) in enumerate(pairwise(widths)))
        self.norms = nn.ModuleList((norm or BatchNorm)(width) for width in widths[1:-1])

    def forward(self, pairs: Pairs, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Map this process's rows."""
        for layer, norm in zip(self.layers, self.norms, strict=False):
            rows = norm(pairs, mapped(pairs, layer, rows)).relu()
        return mapped(pairs, self.layers[-1], rows)


def mapped(pairs: Pairs, layer: nn.Module, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
    """Return rows behind a layer of a term's own, in the precision of such layers."""
    with pairs.own_network():
        found: Tensor = layer(rows.to(next(layer.parameters()).dtype))
    return at_least_float32(found)


class BatchNorm(nn.Module):
    """Standardise each feature over the whole batch, then stretch and shift it."""

    def __init__(self, width: int):
        super().__init__()
        self.stretch = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, pairs: Pairs, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Normalise this process's rows."""
        return standardize(pairs, rows) * self.stretch + self.shift


def standardize(pairs: Pairs, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Give each feature mean 0 and variance 1 over the whole batch, with gradient through both."""
    centred, _, variance = moments(pairs, rows)
    return centred / (variance + EPSILON).sqrt()


def moments(
    pairs: Pairs, rows: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Return rows around the mean of each feature over the whole batch, the mean and the variance, with gradient.

    Each pair has one row, or several, as many as any other.
    """
    count = pairs.num_pairs * (len(rows) // pairs.num_local)
    mean = pairs.total(rows.sum(dim=0)) / count
    centred = rows - mean
    return centred, mean, pairs.total(centred.square().sum(dim=0)) / count


class DirectMap(nn.Module):
    """A symmetric map along the axes of its inputs' correlation, averaged over the past; nothing is learned.

    Args:
        width: Of inputs and outputs.
        memory: Weight of the past in the average.
    """

    correlation: Tensor

    def __init__(self, width: int, memory: float):
        super().__init__()
        self.memory = memory
        self.register_buffer("correlation", torch.zeros(width, width))

    def forward(self, pairs: Pairs, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Take the whole batch into the average, on every process alike, and map this process's rows."""
        return rows @ self._update(pairs, rows.detach())

    @torch.no_grad()
    def _update(self, pairs: Pairs, rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
        here = pairs.total(rows.T @ rows) / pairs.num_pairs
        average = self.memory * self.correlation.to(here.dtype) + (1 - self.memory) * here
        self.correlation.copy_(average)
        return direct_map(average)


def direct_map(correlation: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Return the map whose gains are the square roots of the correlation's, relative to the largest."""
    gains, axes = torch.linalg.eigh(correlation)
    gains = (gains.clamp(min=0) / gains[-1]).sqrt() + FLOOR
    return (axes * gains) @ axes.T


def miss(guess: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return the squared distance of two directions; no gradient to the second."""
    return 2 - 2 * functional.cosine_similarity(guess, target.detach(), dim=1)
