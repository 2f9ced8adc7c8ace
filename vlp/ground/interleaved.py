"""What a batch of documents says beside pixels and tokens: which of its images each token looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interleaved:
    """Which image each token of some documents looks at.

    In arrays on the CPU, so that nothing waits for the device, and no wrapper of a model moves it there.

    Args:
        num_images: Images of each document: so many of its image views, the first ones.
        seen: Number of the latest image before each token, from 1 on; 0 before the first image, and for padding.
        most: Image views of the batch: images that a document may have.
    """

    num_images: Int64[NDArray[np.int64], " n"]
    seen: Int64[NDArray[np.int64], "n l"]
    most: int

    @property
    def is_word(self) -> Bool[NDArray[np.bool_], "n m"]:
        """Whether each token but the first is predicted: behind an image, and not the place of another."""
        before, after = self.seen[:, :-1], self.seen[:, 1:]
        found: NDArray[np.bool_] = (before == after) & (after > 0)
        return found

    @property
    def has_view(self) -> Bool[NDArray[np.bool_], "v n"]:
        """Which documents have an image in each image view."""
        found: NDArray[np.bool_] = np.arange(self.most)[:, None] < self.num_images[None]
        return found

    def narrow(self, start: int, size: int) -> Interleaved:
        """Return the documents `start` to `start + size`."""
        rows = slice(start, start + size)
        return Interleaved(self.num_images[rows], self.seen[rows], self.most)

    @classmethod
    def join(cls, parts: Sequence[Interleaved]) -> Interleaved:
        """Put documents one behind the other, those of fewer tokens filled up."""
        width = max(part.seen.shape[1] for part in parts)
        seen = [np.pad(part.seen, ((0, 0), (0, width - part.seen.shape[1]))) for part in parts]
        return cls(np.concatenate([part.num_images for part in parts]), np.concatenate(seen), parts[0].most)
