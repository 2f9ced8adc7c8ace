"""What one device holds, and in how many micro-batches it fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.plan.test_forecast import B32
from tests.small_steps import small_recipe
from vlp.plan.holding import Holding, numbers_of_micro_batches


@pytest.mark.parametrize(
    ("pairs", "first", "numbers"),
    [(8, 1, [1, 2, 4, 8]), (12, 1, [1, 2, 4, 12]), (12, 5, [6, 12]), (7, 2, [7]), (8, 9, []), (30, 3, [3, 6, 15, 30])],
)
def test_numbers_divide_the_share_and_at_least_double(pairs, first, numbers):
    assert list(numbers_of_micro_batches(pairs, first)) == numbers


def test_the_smallest_number_that_fits():
    holding = Holding(B32, 1024)
    totals = {number: sum(holding.memory(number).values()) for number in (1, 2, 4)}
    assert totals[1] > totals[2] > totals[4]
    assert holding.fitting(totals[1]) == 1
    assert holding.fitting(totals[1] - 1) == 2
    assert holding.fitting(totals[1], first=2) == 2
    assert holding.fitting(totals[4]) == 4
    assert holding.fitting(1e9) is None
    assert totals[2] - holding.beside_activations(2) == pytest.approx(512 * 19e6)


def test_copies_of_a_guarded_step_take_the_place_of_activations():
    """Lion keeps one moment, and its step copies that and the weights: 8 bytes for each of 151 million."""
    guarded = replace(B32, guarded=2.0)
    plain, copied = Holding(B32, 1024), Holding(guarded, 1024)
    assert 8 * guarded.trained < plain.activations(1)
    assert copied.memory(1) == plain.memory(1)
    small = copied.memory(1024)["copies in the optimizer's step"]
    assert small == 8 * guarded.trained - copied.activations(1024) > 0
    assert copied.beside_activations(1024) == plain.beside_activations(1024)
    assert Holding(guarded, 1024, 4, sharded=True).memory(256)["copies in the optimizer's step"] == pytest.approx(
        2 * guarded.trained - copied.activations(1024)
    )


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ("{micro_batches: 4}", 4),
        ("{micro_batches: auto}", 1),
        ("{micro_batches: auto, memory_gb: 15}", 2),
        ("{micro_batches: auto, memory_gb: 1}", 1024),
    ],
)
def test_a_recipe_asks_for_a_number_or_takes_what_fits(settings, number):
    train = small_recipe("vitb32_clip", f"train={settings}").train
    assert Holding(B32, 1024).micro_batches(train, 80e9) == number
