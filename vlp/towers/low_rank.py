"""Low-rank adapters: what a frozen matrix lacks is learned as the product of two thin ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ADAPTER = "lora"  # what an adapter is called within the layer that it belongs to


class LowRank(nn.Module):
    """What is added to a linear layer: `x -> share * x @ a.T @ b.T`, nothing at first (LoRA, Hu et al. 2021, eq. 3).

    Args:
        inputs: Width of what comes in.
        outputs: Width of what goes out.
        rank: Rows of `a`, columns of `b`.
        alpha: The share is alpha / rank.
        dropout: Share of the inputs that a training step leaves out.
        device: Where it lies.
    """

    share: Float[Tensor, ""]

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, inputs, device=device))
        self.b = nn.Parameter(torch.zeros(outputs, rank, device=device))
        share = torch.full((), alpha / rank, device=device)
        self.register_buffer("share", share)  # the state of an adapter says all about it
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, inputs: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """Return what is added to the layer's own output."""
        return F.linear(F.linear(self.dropout(inputs), self.a) * self.share, self.b)


class AdaptedLinear(nn.Linear):
    """A linear layer with an adapter."""

    lora: LowRank

    def forward(self, input: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """Apply the layer and its adapter."""
        return super().forward(input) + self.lora(input)


def matrix_of(layer: nn.Module) -> Tensor:
    """Return what an adapter of a layer is added to: the matrix of a linear layer, or an attention's packed one."""
    weight: Tensor = layer.weight if isinstance(layer, nn.Linear) else layer.in_proj_weight  # type: ignore[assignment]
    return weight


def adapt(layer: nn.Module, *, rank: int, alpha: float, dropout: float) -> LowRank:
    """Give an adapter to a linear layer, or to the packed projection of an attention, and return it.

    The class of the block that runs an attention must know of its adapter: `vlp.towers.attention.LeanBlock` does.
    """
    weight = matrix_of(layer)
    outputs, inputs = weight.shape
    adapter = LowRank(inputs, outputs, rank=rank, alpha=alpha, dropout=dropout, device=weight.device)
    if isinstance(layer, nn.Linear):
        layer.__class__ = AdaptedLinear
    layer.add_module(ADAPTER, adapter)
    return adapter


def adapters_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, LowRank]]:
    """Yield the adapted layers of a model: name, layer and adapter."""
    for name, layer in model.named_modules():
        if isinstance(adapter := getattr(layer, ADAPTER, None), LowRank):
            yield name, layer, adapter


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Add each adapter to the matrix that it belongs to, and take it away."""
    for _, layer, adapter in list(adapters_of(model)):
        matrix_of(layer).add_(product(adapter.a, adapter.b, adapter.share))
        delattr(layer, ADAPTER)
        if isinstance(layer, AdaptedLinear):
            layer.__class__ = nn.Linear  # type: ignore[assignment]


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state in which each adapter is added to its matrix, as `merge_adapters` does with a model."""
    end = f".{ADAPTER}.a"
    layers = {name.removesuffix(end) for name in state if name.endswith(end)}
    parts = {f"{layer}.{ADAPTER}.{part}" for layer in layers for part in ("a", "b", "share")}
    found = {name: value for name, value in state.items() if name not in parts}
    for layer in layers:
        target = next(name for name in (f"{layer}.weight", f"{layer}.in_proj_weight") if name in found)
        a, b, share = (state[f"{layer}.{ADAPTER}.{part}"] for part in ("a", "b", "share"))
        found[target] = found[target] + product(a, b, share)
    return found


def product(a: Float[Tensor, "r i"], b: Float[Tensor, "o r"], share: float | Tensor) -> Float[Tensor, "o i"]:
    """Return the matrix that an adapter stands for."""
    return share * (b @ a)
