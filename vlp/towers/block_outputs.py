"""What each block of a tower says, averaged over places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float32
from torch import Tensor, nn

from vlp.towers.blocks import blocks_of


@contextmanager
def listening(tower: nn.Module) -> Iterator[list[Float32[Tensor, "n w"]]]:
    """Collect a row per sample from each of the tower's blocks, the first one first, in every forward of the `with`."""
    found: list[Tensor] = []

    def listen(_block: nn.Module, _inputs: Any, output: Any) -> None:
        found.append(mean_over_places(output[0] if isinstance(output, tuple) else output))

    handles = [block.register_forward_hook(listen) for block in blocks_of(tower)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def mean_over_places(features: Float32[Tensor, "n ..."]) -> Float32[Tensor, "n w"]:
    """Average tokens [n, l, w], maps [n, c, h, w] or, where both sides stand first, maps [n, h, w, c]."""
    if features.ndim == 3:
        return features.mean(dim=1)
    if features.ndim == 4:
        is_last = features.shape[1] == features.shape[2] != features.shape[3]
        return features.mean(dim=(1, 2) if is_last else (2, 3))
    return features.flatten(1)
