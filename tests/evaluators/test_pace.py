"""The time that is left is judged by samples, not by tasks."""

from __future__ import annotations

import pytest

from tests.evaluators.sets import task_on
from vlp.evaluators import pace


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def tasks_of(tmp_path, *sizes):
    data = [{} if size is None else {"samples": size} for size in sizes]
    return [task_on(tmp_path / f"t{number}", "zero_shot", "acc1", **known) for number, known in enumerate(data)]


def test_large_tasks_take_longer(tmp_path, clock):
    small, large = tasks_of(tmp_path, 100, 900)
    found = pace.Pace([small, large])
    clock[0] += 10
    assert found.after(small) == "1/2, about 90 s left".replace("90 s", pace.say_seconds(90))
    clock[0] += 90
    assert found.after(large) == "2/2"


def test_a_task_of_unknown_size_counts_like_the_others(tmp_path, clock):
    one, unknown, other = tasks_of(tmp_path, 100, None, 300)
    found = pace.Pace([one, unknown, other], num_done=2)
    clock[0] += 1
    assert found.after(one) == "3/5, about 5 s left"  # 200 and 300 of the speed of 100 a second


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "0 s"), (89, "89 s"), (95, "1 min"), (7300, "2 h 1 min")])
def test_times_are_said_as_people_say_them(seconds, said):
    assert pace.say_seconds(seconds) == said
