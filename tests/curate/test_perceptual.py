"""Near codes are found, all of them and no others; counts in a sketch are never too low."""

from __future__ import annotations

import numpy as np
import pytest

from vlp.curate.facts.count_sketch import Sketch
from vlp.curate.facts.perceptual import matches, nearest, twins


def draw_codes(seed, size=400):
    """Return random codes; half of them are copies with up to nine bits flipped."""
    draw = np.random.default_rng(seed)
    codes = draw.integers(0, 2**64, size, dtype=np.uint64)
    for place in range(size // 2, size):
        bits = draw.choice(64, draw.integers(0, 10), replace=False)
        codes[place] = codes[draw.integers(place)] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    return codes


@pytest.mark.parametrize("distance", range(9))
def test_all_near_codes_are_found(distance):
    codes, others = draw_codes(0), draw_codes(0)[::3]
    apart = np.bitwise_count(codes[:, None] ^ others[None])
    found = {
        (row, other)
        for rows, places, _ in matches(codes, others, distance)
        for row, other in zip(rows, places, strict=True)
    }
    assert found == set(zip(*np.nonzero(apart <= distance), strict=True))
    which, best = nearest(codes, others, distance)
    near = apart.min(1) <= distance
    assert (which[near] == apart.argmin(1)[near]).all() and (best[near] == apart.min(1)[near]).all()
    assert (which[~near] == -1).all()


@pytest.mark.parametrize("distance", [0, 2, 4])
def test_twins_agree_with_a_slow_reading(distance):
    codes = draw_codes(1)
    colors = np.random.default_rng(2).integers(0, 3, (len(codes), 3)).astype(np.int16)
    expected = []
    for place, code in enumerate(codes):
        same = [
            earlier
            for earlier in range(place)
            if expected[earlier] < 0
            and int(code ^ codes[earlier]).bit_count() <= distance
            and np.abs(colors[place] - colors[earlier]).max() <= 1
        ]
        expected.append(same[0] if same else -1)
    assert twins(codes, distance, colors, 1).tolist() == expected
    assert len(set(expected)) > 5


def test_small_steps_do_not_chain():
    codes = np.array([0b0, 0b11, 0b1111, 0b111111], dtype=np.uint64)
    assert twins(codes, 2, np.zeros((4, 3), dtype=np.int16), 0).tolist() == [-1, 0, -1, 2]


def test_a_wide_sketch_is_exact_and_a_narrow_one_counts_too_much_at_most():
    draw = np.random.default_rng(0)
    names = draw.integers(0, 2**64, 20_000, dtype=np.uint64)
    counts = draw.zipf(1.5, len(names)).clip(max=1000)
    wide, narrow = Sketch(4), Sketch(1)
    narrow.bits, narrow.cells = 10, narrow.cells[:, : 1 << 10].copy()  # less than the setting allows
    for sketch in (wide, narrow):
        for part in np.array_split(np.arange(len(names)), 3):
            sketch.add(names[part], counts[part])
    assert wide.num_different() == pytest.approx(20_000, rel=0.02)
    assert (wide.count(names) == counts).mean() > 0.99
    assert (wide.count(names) >= counts).all() and (narrow.count(names) >= counts).all()
    too_high = narrow.count(names) - counts
    assert (too_high > np.e / (1 << 10) * counts.sum()).mean() < np.exp(-4)
    assert too_high.max() > 0
