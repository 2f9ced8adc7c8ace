"""What each block of a tower says, averaged over places, or with the deviation over places beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from vlp.towers.blocks import blocks_of


@contextmanager
def listening(
    tower: nn.Module, summary: Callable[[Tensor], Tensor] | None = None
) -> Iterator[list[Float32[Tensor, "n ..."]]]:
    """Collect what each of the tower's blocks says, the first one first, in every forward of the `with`.

    Args:
        summary: From a block's output to what is kept of it, a row per sample by default: `mean_over_places`.
    """
    summary = summary or mean_over_places
    found: list[Tensor] = []

    def listen(_block: nn.Module, _inputs: Any, output: Any) -> None:
        found.append(summary(output[0] if isinstance(output, tuple) else output))

    handles = [block.register_forward_hook(listen) for block in blocks_of(tower)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def mean_over_places(features: Float32[Tensor, "n ..."]) -> Float32[Tensor, "n w"]:
    """Average tokens [n, l, w], maps [n, c, h, w] or, where both sides stand first, maps [n, h, w, c]."""
    if features.ndim == 4:
        return features.mean(dim=_sides(features))
    return features.mean(dim=1) if features.ndim == 3 else features.flatten(1)


def style_over_places(features: Float32[Tensor, "n ..."]) -> Float32[Tensor, "n 2 w"]:
    """Return the mean of each channel over the same places, and its standard deviation: the style of AdaIN."""
    if features.ndim == 4:
        places = _sides(features)
    else:
        features = features if features.ndim == 3 else features.flatten(1)[:, None]
        places = (1,)
    return torch.stack([features.mean(dim=places), features.std(dim=places, correction=0)], dim=1)


def _sides(maps: Float32[Tensor, "n ..."]) -> tuple[int, ...]:
    is_last = maps.shape[1] == maps.shape[2] != maps.shape[3]
    return (1, 2) if is_last else (2, 3)
