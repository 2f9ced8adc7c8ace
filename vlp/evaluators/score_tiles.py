"""All scores between two sets of rows, some rows at a time, and a choice of pairs where that would be too many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 512


def score_tiles(
    rows: Float64[Tensor, "n d"], columns: Float64[Tensor, "m d"]
) -> Iterator[tuple[int, Float64[Tensor, "c m"]]]:
    """Yield the place of the first row and the scores of some rows with all columns; the scores may be changed."""
    for start in range(0, len(rows), CHUNK):
        yield start, rows[start : start + CHUNK] @ columns.T


def spaced_places(size: int, most: int) -> NDArray[np.int64]:
    """Return all places of a set, or `most` evenly spaced ones of a larger set."""
    return np.linspace(0, size - 1, min(size, most)).round().astype(np.int64)
