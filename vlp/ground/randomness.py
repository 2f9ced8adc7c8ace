"""Random numbers as pure functions of a key, equal on every machine, worker and library version.

SplitMix64 (Steele, Lea, Flood 2014, figure 17): a counter, and a finaliser that mixes it. NumPy promises no stable
streams for its generators, and creating one per sample costs more than all draws of that sample.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import MutableSequence, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Thing = TypeVar("Thing")

MASK = (1 << 64) - 1
SAME = 3  # (seed, use, epoch): the samples of an epoch share the hash of these
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

# What a key is for: equal (seed, epoch, sample) must not give equal numbers to different users.
# Append only, so that a seed keeps its meaning.
(
    ORDER, SUBSTITUTE, CROP, CAPTION, DEVICE, REWORD, NEGATIVE, POLICY, SHARDS, WINDOW, SOURCE, GROUP, TURN, DOCUMENT,
    BUDGET, REGION, MINED,
) = range(17)  # fmt: skip


def mix(value: int) -> int:
    """Return 64 bits that all depend on all bits of `value`."""
    value = ((value ^ (value >> 30)) * FIRST) & MASK
    value = ((value ^ (value >> 27)) * SECOND) & MASK
    return value ^ (value >> 31)


def mix_array(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply `mix` to each element."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(FIRST)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(SECOND)
    return values ^ (values >> np.uint64(31))


def hash64(data: bytes) -> int:
    """Return the first 64 bits of a hash that is equal on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def fold(*key: int) -> int:
    """Hash a sequence of integers to 64 bits."""
    return _mix_in(_fold_head(key[:SAME]), key[SAME:])


@lru_cache(maxsize=64)
def _fold_head(head: tuple[int, ...]) -> int:
    return _mix_in(0, head)


def _mix_in(state: int, parts: Sequence[int]) -> int:
    for part in parts:
        state = mix(((state ^ (part & MASK)) + GOLDEN) & MASK)
    return state


def uniform_rows(keys: Sequence[int], count: int) -> NDArray[np.float32]:
    """Return `count` numbers in [0, 1) for each 64-bit key."""
    counters = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    bits = mix_array(np.asarray(keys, dtype=np.uint64)[:, None] + counters[None])
    return ((bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).astype(np.float32)


class Draws:
    """An endless supply of random numbers for one key."""

    def __init__(self, *key: int):
        self._state = fold(*key)

    def bits(self) -> int:
        """Return the next 64 bits."""
        self._state = value = (self._state + GOLDEN) & MASK
        # `mix`, written out: a call would cost more than its arithmetic.
        value = ((value ^ (value >> 30)) * FIRST) & MASK
        value = ((value ^ (value >> 27)) * SECOND) & MASK
        return value ^ (value >> 31)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return the next number in [low, high)."""
        number = low + (high - low) * ((self.bits() >> 11) * 2.0**-53)
        return number if number < high else math.nextafter(high, low)  # the sum may have been rounded up

    def integer(self, stop: int) -> int:
        """Return the next integer in [0, stop)."""
        return (self.bits() * stop) >> 64

    def choice(self, things: Sequence[Thing]) -> Thing:
        """Return one of `things`."""
        return things[self.integer(len(things))]

    def weighted(self, weights: Sequence[float]) -> int:
        """Return an index, drawn in proportion to `weights`."""
        point = self.uniform(0.0, sum(weights))
        for index, weight in enumerate(weights):
            point -= weight
            if point < 0:
                return index
        # differences may have been rounded up: the last that has a chance
        return max((index for index, weight in enumerate(weights) if weight > 0), default=len(weights) - 1)

    def shuffle(self, things: MutableSequence[Any]) -> None:
        """Shuffle in place."""
        for last in range(len(things) - 1, 0, -1):
            other = self.integer(last + 1)
            things[last], things[other] = things[other], things[last]
