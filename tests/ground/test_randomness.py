"""Draws are uniform, reproducible and independent between keys."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.ground.test_draws import unmixed
from vlp.ground.randomness import GOLDEN, Draws, fold, mix, mix_array, uniform_rows


def test_first_numbers_are_those_of_splitmix64():
    # Reference output of the published C code for seed 1234567.
    state, found = 1234567, []
    for _ in range(3):
        state = (state + GOLDEN) & (2**64 - 1)
        found.append(mix(state))
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_arrays_and_integers_mix_alike():
    values = [0, 1, 2**63, 2**64 - 1]
    assert mix_array(np.array(values, dtype=np.uint64)).tolist() == [mix(value) for value in values]


def test_every_part_of_a_key_counts():
    keys = [fold(*key) for key in ((0,), (0, 0), (1, 0), (0, 1), (1, 1), (0, 0, 0), (-1, 0))]
    assert len(set(keys)) == len(keys)


def test_rows_are_uniform_and_below_one():
    rows = uniform_rows([fold(0, number) for number in range(2000)], 23)
    assert rows.shape == (2000, 23) and rows.dtype == np.float32
    assert rows.min() >= 0 and rows.max() < 1
    assert rows.mean(0) == pytest.approx(0.5, abs=0.04)  # six deviations of a mean of 2000
    assert np.abs(np.corrcoef(rows.T) - np.eye(23)).max() < 0.12


def test_integers_choices_and_weights_follow_their_chances():
    draws = Draws(5)
    assert set(Counter(draws.integer(3) for _ in range(300))) == {0, 1, 2}
    counts = Counter(draws.weighted([1.0, 0.0, 3.0]) for _ in range(4000))
    assert counts[1] == 0 and counts[2] == pytest.approx(3000, abs=140)
    things = list(range(20))
    draws.shuffle(things)
    assert sorted(things) == list(range(20)) != things


LARGEST = 2**64 - 1


def draws_from(bits: int) -> Draws:
    """Return draws whose next bits are these."""
    draws = Draws()
    draws._state = (unmixed(bits) - GOLDEN) % 2**64
    return draws


def test_the_largest_bits_stay_below_the_end():
    assert draws_from(LARGEST).bits() == LARGEST
    assert uniform_rows([(unmixed(LARGEST) - GOLDEN) % 2**64], 1).max() < 1
    assert draws_from(LARGEST).choice("abc") == "c"
    for low, high in ((0.0, 1.0), (0.75, 1.0), (0.9, 1.0), (0.5, 1.5), (0.1, 0.4), (-0.3, 0.3), (-1e17, 1.0)):
        assert low <= draws_from(LARGEST).uniform(low, high) < high
        assert draws_from(0).uniform(low, high) == low
    assert draws_from(LARGEST).uniform(0.7, 0.7) == 0.7


@pytest.mark.parametrize("weights", [[0.3, 0.7, 0.0], [0.4, 0.8, 0.7, 0.0, 0.0], [0.1] * 10 + [0.0], [0.0]])
def test_what_weighs_nothing_is_never_drawn(weights):
    last = max((k for k, weight in enumerate(weights) if weight), default=len(weights) - 1)
    assert draws_from(LARGEST).weighted(weights) == last
