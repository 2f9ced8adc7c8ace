"""The time that is left is judged by samples, not by tasks."""

from __future__ import annotations

import pytest

from vlp.evaluators import pace


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def test_large_tasks_take_longer(clock):
    found = pace.Pace([100, 900])
    clock[0] += 10
    assert found.after(100) == "1/2, about 90 s left".replace("90 s", pace.say_seconds(90))
    clock[0] += 90
    assert found.after(900) == "2/2"


def test_a_task_of_unknown_size_counts_like_the_others(clock):
    found = pace.Pace([100, None, 300], num_done=2)
    clock[0] += 1
    assert found.after(100) == "3/5, about 5 s left"  # 200 and 300 of the speed of 100 a second


def test_what_was_done_before_says_nothing_of_speed(clock):
    found = pace.Pace([100, 100, 200])
    assert found.skip(100) == "1/3"
    clock[0] += 10
    assert found.after(100) == "2/3, about 20 s left"


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "0 s"), (89, "89 s"), (95, "1 min"), (7300, "2 h 1 min")])
def test_times_are_said_as_people_say_them(seconds, said):
    assert pace.say_seconds(seconds) == said
