"""Perceptual codes: 64 bits of an image that survive scaling and recoding, and a search for codes that are near."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling

from vlp.ground.types import RecipeError

BITS = 64
FARTHEST = 8
SIDE = 32

Codes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


def look_of(image: Image) -> tuple[int, tuple[int, ...]]:
    """Return the perceptual code of an RGB image, and its mean red, green and blue."""
    # Pillow widens this filter when it shrinks: halving a photograph before moves no more than 2 bits (100 % of 177).
    small = image.resize((SIDE, SIDE), Resampling.BILINEAR)
    mean = np.asarray(small).reshape(-1, 3).mean(0).round().astype(int)
    return code_of(np.asarray(small.convert("L"))), tuple(mean.tolist())


def code_of(grey: NDArray[np.uint8]) -> int:
    """Return which of the 8 x 8 lowest cosines are larger than their median; brightness is left out."""
    from scipy.fft import dctn  # 16 MB, which nothing else of a page or a filter needs

    waves = dctn(grey.astype(np.float64), norm="ortho")[:8, :8].ravel()
    # Rounded, so that the last bits of another processor's sums flip nothing in flat pictures.
    waves = np.round(waves, 3)
    waves[0] = 0.0
    bits = waves > np.median(waves)
    return int(np.packbits(bits).view(">u8")[0])


def matches(codes: Codes, others: Codes, distance: int) -> Iterator[tuple[Numbers, Numbers, NDArray[np.uint8]]]:
    """Yield places in `codes`, places in `others` and their distance, for all that differ in few bits; some twice.

    Two codes that differ in d bits agree in all bits of at least m - d of m bands. So each choice of m - d bands gives
    a table to look up; m grows until a key is long enough that few codes share it (Manku, Jain, Sarma 2007,
    section 3.1).
    """
    for mask in _masks(len(others), distance):
        order = np.argsort(others & mask, kind="stable")
        keys = (others & mask)[order]
        first = np.searchsorted(keys, codes & mask, "left")
        last = np.searchsorted(keys, codes & mask, "right")
        rows = np.flatnonzero(first < last)
        while len(rows):
            found = order[first[rows]]
            apart = np.bitwise_count(codes[rows] ^ others[found])
            near = apart <= distance
            yield rows[near], found[near], apart[near]
            first[rows] += 1
            rows = rows[first[rows] < last[rows]]


def nearest(codes: Codes, others: Codes, distance: int) -> tuple[Numbers, NDArray[np.uint8]]:
    """Return for each code the place of the nearest other, -1 where none is near, and how far it is."""
    which = np.full(len(codes), -1, dtype=np.int64)
    best = np.full(len(codes), BITS + 1, dtype=np.uint8)
    for rows, found, apart in matches(codes, others, distance):
        better = (apart < best[rows]) | ((apart == best[rows]) & (found < which[rows]))
        which[rows[better]], best[rows[better]] = found[better], apart[better]
    return which, best


def twins(codes: Codes, distance: int, colors: NDArray[np.int16], tolerance: float) -> Numbers:
    """Return for each image the place of an earlier one that looks the same and stays, or -1 where it stays itself.

    An image that stays hides only what is near to it, so that no chain of small steps joins what differs.

    Args:
        colors: Mean red, green and blue.
        tolerance: Largest difference of a mean.
    """
    firsts, group = _distinct(codes, colors)
    hidden_by = np.arange(len(firsts))
    for later, earlier in _pairs(codes[firsts], distance, colors[firsts], tolerance):
        if hidden_by[later] == later and hidden_by[earlier] == earlier:
            hidden_by[later] = earlier
    keeper = firsts[hidden_by[group]]
    return np.where(keeper == np.arange(len(codes)), -1, keeper)


def _distinct(codes: Codes, colors: NDArray[np.int16]) -> tuple[Numbers, Numbers]:
    """Return where each different image stands first, ascending, and which of them each image is."""
    columns = (*colors.T, codes)
    order = np.lexsort(columns)
    starts = np.ones(len(codes), dtype=np.bool_)
    starts[1:] = np.logical_or.reduce([column[order][1:] != column[order][:-1] for column in columns])
    firsts = order[starts]
    ranks = np.empty_like(firsts)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    group = np.empty_like(order)
    group[order] = ranks[np.cumsum(starts) - 1]
    return np.sort(firsts), group


def _pairs(codes: Codes, distance: int, colors: NDArray[np.int16], tolerance: float) -> Numbers:
    """Return pairs (later, earlier) of images that look the same, sorted."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for rows, found, _ in matches(codes, codes, distance):
        same = (found < rows) & (np.abs(colors[rows] - colors[found]).max(1) <= tolerance)
        pairs.append(np.stack([rows, found], 1)[same])
    return np.unique(np.concatenate(pairs), axis=0)


def _masks(size: int, distance: int) -> Iterator[np.uint64]:
    bands = distance + 1
    while BITS * (bands - distance) / bands < math.log2(max(size, 2)):
        bands += 1
    # Neighbouring bits belong to similar waves; bands take every m-th bit, so that none is nearly constant.
    parts = [sum(1 << bit for bit in range(band, BITS, bands)) for band in range(bands)]
    for chosen in combinations(parts, bands - distance):
        yield np.uint64(sum(chosen))


def check_distance(distance: int) -> int:
    """Return a distance that the search can be asked for.

    Raises:
        RecipeError: Larger: unlike images are as near as that.
    """
    if not 0 <= distance <= FARTHEST:
        raise RecipeError(f"distance: {distance} is not between 0 and {FARTHEST} bits")
    return distance
