"""What can be known of a sample: numbers that rules decide by, measured once whatever rule asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlp.curate.facts.perceptual import look_of
from vlp.curate.facts.view import View
from vlp.data.pixels.decode import FORMATS, format_of
from vlp.ground.randomness import GOLDEN, hash64, mix_array

MOST_WORDS = 64


class Fact(Protocol):
    """A number, or a row of numbers, per sample.

    Args:
        name: Stands for the meaning: another meaning needs another name, since measured shards are kept.
        on_device: Measured in one process with a GPU, where there is one, instead of on all cores.
    """

    @property
    def name(self) -> str: ...

    @property
    def on_device(self) -> bool: ...

    def read(self, view: View) -> Any:
        """Return what the fact needs of a sample.

        Raises:
            BadSampleError: The sample has no such thing, or a broken one.
        """

    def rows(self, read: list[Any]) -> NDArray[Any]:
        """Turn what was read of some samples into one row each."""


@dataclass(frozen=True)
class Number:
    """A fact that needs nothing but the sample itself.

    Args:
        dtype: Of NumPy; several named ones make a row.
        of: A function of a module, so that other processes find it.
        shape: Of one row; empty for a plain number.
    """

    name: str
    dtype: str | list[tuple[Any, ...]]
    of: Callable[[View], Any]
    shape: tuple[int, ...] = ()
    on_device: bool = False

    def read(self, view: View) -> Any:
        """Measure a sample."""
        return self.of(view)

    def rows(self, read: list[Any]) -> NDArray[Any]:
        """Return an array of the numbers."""
        return np.array(read, dtype=self.dtype).reshape(len(read), *self.shape)


def _key(view: View) -> int:
    return hash64(view.key.encode())


def _caption(view: View) -> int:
    return hash64(view.caption.lower().encode())


def _image(view: View) -> int:
    return hash64(view.data)


def _header(view: View) -> tuple[tuple[int, int], int, int]:
    picture = view.picture
    return (picture.width, picture.height), FORMATS.index(format_of(view.data)), len(view.data)


def _look(view: View) -> tuple[int, tuple[int, ...]]:
    return look_of(view.image)


def _length(view: View) -> tuple[int, int]:
    return len(view.caption), view.caption.count(" ") + 1


def _num_words(view: View) -> int:
    return len(view.words)


def _grams(view: View) -> NDArray[np.uint64]:
    row = np.zeros(2 * MOST_WORDS, dtype=np.uint64)
    hashes = grams_of(view.words)
    row[: len(hashes)] = hashes
    return row


def grams_of(words: list[str]) -> NDArray[np.uint64]:
    """Return a hash of each of the first MOST_WORDS words, then of each pair of neighbours."""
    ones = np.array([hash64(word.encode()) for word in words[:MOST_WORDS]], dtype=np.uint64)
    pairs = mix_array(ones[:-1] * np.uint64(GOLDEN) + ones[1:])
    return np.concatenate([ones, pairs])


KEY = Number("key", "uint64", _key)
CAPTION = Number("caption", "uint64", _caption)
IMAGE = Number("image", "uint64", _image)
HEADER = Number("header", [("size", "int32", (2,)), ("format", "uint8"), ("bytes", "int64")], _header)
LENGTH = Number("length", [("characters", "int32"), ("pieces", "int32")], _length)
LOOK = Number("look", [("code", "uint64"), ("color", "int16", (3,))], _look)
WORDS = Number("words", "int32", _num_words)
GRAMS = Number("grams", "uint64", _grams, (2 * MOST_WORDS,))
