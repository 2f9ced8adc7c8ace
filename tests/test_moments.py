"""Signals are remembered, speed leaves out pauses, waiting is counted."""

from __future__ import annotations

import os
import signal
import time

import pytest

from vlp import moments
from vlp.moments import Clock, StopSignal, due


@pytest.mark.parametrize(
    ("step", "every", "expected"), [(4, 2, True), (5, 2, False), (10, None, True), (9, None, False), (10, 3, True)]
)
def test_what_is_due_happens_at_its_steps_and_at_the_end(step, every, expected):
    assert due(step, every, num_steps=10) is expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_remembered_and_a_second_one_changes_nothing(number):
    before = signal.getsignal(number)
    stop = StopSignal()
    assert not stop.anywhere()
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)
    assert stop.anywhere()
    stop.restore()
    assert signal.getsignal(number) is before


class Time:
    """A clock that only moves when told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def timer(monkeypatch):
    timer = Time()
    monkeypatch.setattr(moments, "time", timer)
    assert time.monotonic() != timer.monotonic()
    return timer


def test_speed_leaves_out_pauses_and_counts_waiting(timer):
    def slowly():
        for number in range(4):
            timer.now += 1.0  # waiting for data
            yield number

    clock = Clock(first_step=6)
    batches = clock.waiting(slowly())
    for _ in range(2):
        next(batches)
        timer.now += 3.0  # computing
    with clock.paused():
        timer.now += 50.0
    assert clock.lap(8, batch_size=16) == {"samples_per_second": 4.0, "data_wait": 0.25}
    next(batches)
    assert clock.lap(9, batch_size=16) == {"samples_per_second": 16.0, "data_wait": 1.0}
