"""Leave out drawings that show the same pixels as another one, or nearly those of one that is evaluated on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rendering import Drawing, Picture

BLOCK = 2000  # drawings that are compared at once


def drop_copies(
    drawings: Sequence[Drawing],
    pictures: Mapping[str, Picture],
    evaluated: NDArray[np.uint8],
    near: float,
    dropped: Mapping[str, Counter[str]],
) -> list[Drawing]:
    """Return the drawings that stay, those with the most tags first among copies.

    Args:
        pictures: The rendered drawings, by key.
        evaluated: Grey values of the pictures that are evaluated on.
        near: Distance of grey values (root mean square) below which two pictures are one.
        dropped: How many drawings each source lost, by reason; counted on.
    """
    drawn = []
    for drawing in drawings:
        fault = pictures[drawing.key].fault
        if fault:
            dropped[drawing.source][fault] += 1
        else:
            drawn.append(drawing)
    first: dict[bytes, Drawing] = {}
    for drawing in sorted(drawn, key=lambda drawing: (-drawing.caption.count(","), drawing.key)):
        if first.setdefault(pictures[drawing.key].pixels, drawing) is not drawing:
            dropped[drawing.source]["same pixels"] += 1
    different = sorted(first.values(), key=lambda drawing: drawing.key)
    far = distances([pictures[drawing.key].thumb for drawing in different], evaluated) >= near
    for drawing, is_far in zip(different, far, strict=True):
        if not is_far:
            dropped[drawing.source]["near an evaluated picture"] += 1
    return [drawing for drawing, is_far in zip(different, far, strict=True) if is_far]


def distances(thumbs: Sequence[bytes], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return how far each picture is from the nearest of the others."""
    right = others.astype(np.float32)
    nearest = [np.zeros(0)]
    for start in range(0, len(thumbs), BLOCK):
        left = grey_values(thumbs[start : start + BLOCK]).astype(np.float32)
        # Sums of 256 products of bytes stay below 2**24: exact in any order, so the same on every machine.
        products = (left @ right.T).astype(np.float64)
        squares = (left**2).sum(1, dtype=np.float64)[:, None] + (right**2).sum(1, dtype=np.float64)
        nearest.append(np.sqrt((squares - 2 * products).min(axis=1, initial=np.inf) / left.shape[1]))
    return np.concatenate(nearest)


def grey_values(thumbs: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return thumbs as rows."""
    return np.frombuffer(b"".join(thumbs), dtype=np.uint8).reshape(len(thumbs), -1)
