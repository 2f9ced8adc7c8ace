"""The captions of a folder of embeddings, each once: equal ones are one candidate, and none of another's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from vlp.data.batch_rows import hash_text
from vlp.embeddings.parts import Found, WholeParts

UNKNOWN = -1


class DistinctCaptions:
    """Numbers of captions, in the order in which they first come; case and spaces make no difference.

    Args:
        parts: Of a folder with embeddings of texts.
    """

    def __init__(self, parts: WholeParts):
        self._parts = parts
        keys = [_keys(parts.captions(number)) for number in range(len(parts))]
        self._ends = np.cumsum([len(each) for each in keys])
        self._known, firsts = np.unique(np.concatenate(keys), return_index=True)
        self._firsts = np.sort(firsts)
        self._numbers = np.empty(len(firsts), dtype=np.int64)
        self._numbers[np.argsort(firsts)] = np.arange(len(firsts))

    def __len__(self) -> int:
        return len(self._firsts)

    def numbers(self, captions: Iterable[str]) -> Int64[NDArray[np.int64], " n"]:
        """Return the number of each caption; `UNKNOWN` for those that are not among them."""
        keys = _keys(captions)
        places = np.searchsorted(self._known, keys).clip(max=len(self._known) - 1)
        return np.where(self._known[places] == keys, self._numbers[places], UNKNOWN)

    def texts(self) -> Iterator[str]:
        """Yield each, by its number."""
        for number in range(len(self._parts)):
            captions = self._parts.captions(number)
            yield from (captions[place] for place in self._new_in(number).tolist())

    def embeddings(self) -> Iterator[Found]:
        """Yield numbers and the embeddings, as they were written, of the first of equal ones, part by part."""
        start = 0
        for number in range(len(self._parts)):
            new = self._new_in(number)
            _, rows = self._parts.read(number, "texts")
            yield np.arange(start, start + len(new)), rows[new]
            start += len(new)

    def _new_in(self, part: int) -> Int64[NDArray[np.int64], " m"]:
        """Return the places in a part of captions that come for the first time."""
        end = self._ends[part]
        start = self._ends[part - 1] if part else 0
        low, high = np.searchsorted(self._firsts, (start, end))
        places: Int64[NDArray[np.int64], " m"] = self._firsts[low:high] - start
        return places


def _keys(captions: Iterable[str]) -> Int64[NDArray[np.int64], " n"]:
    return np.array([hash_text(" ".join(caption.split()).casefold()) for caption in captions], dtype=np.int64)
