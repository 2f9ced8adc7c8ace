"""Schedules by hand."""

from __future__ import annotations

import pytest

from vlp.objectives.schedule import Schedule


def test_constant():
    assert [Schedule(start=0.3)(step) for step in (0, 1, 10**6)] == [0.3] * 3


def test_linear_by_hand():
    weight = Schedule(start=1.0, end=0.0, first_step=10, last_step=20)
    assert [weight(step) for step in (0, 10, 15, 20, 99)] == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_cosine_is_slow_at_both_ends():
    weight = Schedule(start=0.0, end=1.0, last_step=100, shape="cosine")
    assert weight(50) == pytest.approx(0.5)
    assert weight(10) < 0.1 < 0.9 < weight(90) < 1


def test_what_starts_at_zero_begins_with_its_first_step():
    assert Schedule(start=0.0, end=1.0, first_step=5, last_step=6).begin == 5
    assert Schedule(start=0.1, end=1.0, first_step=5, last_step=6).begin == Schedule(start=0.0).begin == 0


@pytest.mark.parametrize("settings", [{"end": 1.0}, {"end": 1.0, "first_step": 5, "last_step": 5}, {"last_step": 5}])
def test_half_a_schedule_is_refused(settings):
    with pytest.raises(ValueError, match="last_step"):
        Schedule(start=0.0, **settings)
