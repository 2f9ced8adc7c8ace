"""A network that makes one perturbation of noise, in the light of what it is to lead away from."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor, nn

HEADS = 1
GROUPS = 8
NOISE = 100


class PerturbationGenerator(nn.Module):
    """Transposed convolutions of fixed noise, with attention to embeddings of the other modality between them.

    Fang et al. 2024 (arXiv:2406.05491), after the authors' code: each block doubles the sides and halves the channels;
    behind every second one, attention to the condition; a last convolution makes one map of the batch's.

    Args:
        condition_dim: Width of the embeddings.
        batch_size: How many conditions there are at a time.
        side: Of the noise; the maps that come out are 64 times as large, and twice that where the noise is 3 wide.
        channels: That come out.
        width: Channels of the widest map; the authors have 1024.
    """

    def __init__(self, *, condition_dim: int, batch_size: int, side: int, channels: int, width: int = 1024):
        super().__init__()
        widths = [max(GROUPS, width >> halvings) for halvings in range(6)]
        self.blocks, self.attention = nn.ModuleList(), nn.ModuleList()
        before = NOISE
        for number, own in enumerate(widths):
            kernel, stride, padding = (4, 1, 0) if number == 0 else (4, 2, 1)
            layer = _initialised(nn.ConvTranspose2d(before, own, kernel, stride, padding))
            self.blocks.append(nn.Sequential(layer, nn.BatchNorm2d(own), nn.ReLU()))
            self.attention.append(ConditionBlock(own, condition_dim) if number in (1, 3) else nn.Identity())
            before = own
        self.last = nn.Sequential(_initialised(nn.ConvTranspose2d(before, channels, 4, 2, 1)), nn.Tanh())
        self.together = _initialised(nn.Conv2d(batch_size, 1, 3, padding=1))
        self.register_buffer("noise", torch.randn(batch_size, NOISE, side, side))

    def forward(self, condition: Float32[Tensor, "b d"]) -> Float32[Tensor, "1 c h w"]:
        """Return one perturbation, not yet cut to any radius."""
        maps = self.noise
        for block, attention in zip(self.blocks, self.attention, strict=True):
            maps = block(maps)
            maps = attention(maps, condition) if isinstance(attention, ConditionBlock) else maps
        found: Tensor = self.together(self.last(maps).transpose(0, 1)).transpose(0, 1)
        return found


class ConditionBlock(nn.Module):
    """A transformer block over the places of a map: attention to each other, to a condition, and two layers.

    What comes out is added to the map, and nothing at first.
    """

    def __init__(self, width: int, condition_dim: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.other = nn.MultiheadAttention(width, HEADS, kdim=condition_dim, vdim=condition_dim, batch_first=True)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.before, self.after = nn.GroupNorm(GROUPS, width), nn.Linear(width, width)
        nn.init.zeros_(self.after.weight)
        nn.init.zeros_(self.after.bias)

    def forward(
        self, maps: Float32[Tensor, "b c h w"], condition: Float32[Tensor, "b d"]
    ) -> Float32[Tensor, "b c h w"]:
        places, told = self.before(maps).flatten(2).transpose(1, 2), condition[:, None]
        rows = self.norms[0](places)
        places = places + self.own(rows, rows, rows, need_weights=False)[0]
        places = places + self.other(self.norms[1](places), told, told, need_weights=False)[0]
        places = places + self.layers(self.norms[2](places))
        return maps + self.after(places).transpose(1, 2).view_as(maps)


def _initialised(layer: nn.Module) -> nn.Module:
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, std=0.02) if name == "weight" else nn.init.zeros_(parameter)
    return layer
