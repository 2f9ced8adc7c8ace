"""Signals are remembered, speed leaves out pauses, waiting is counted."""

from __future__ import annotations

import os
import signal
import time

import pytest

from vlp.run import clock
from vlp.run.clock import Clock, StopSignal, diagnose, due


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
    monkeypatch.setattr(clock, "time", timer)
    assert time.monotonic() != timer.monotonic()
    return timer


def test_speed_leaves_out_pauses_and_counts_waiting(timer):
    def slowly():
        for number in range(4):
            timer.now += 1.0  # waiting for data
            yield number

    clock = Clock(6, 96)
    batches = clock.waiting(slowly())
    for _ in range(2):
        next(batches)
        timer.now += 3.0  # computing
    with clock.paused():
        timer.now += 50.0
    assert clock.lap(8, 128) == {"samples_per_second": 4.0, "data_wait": 0.25}
    next(batches)
    assert clock.lap(9, 144) == {"samples_per_second": 16.0, "data_wait": 1.0}


@pytest.mark.parametrize(
    ("wait", "rate", "workers", "said"),
    [
        (0.05, 100.0, 2, ""),
        (0.5, 0.0, 0, "decode-bound: no process decodes beside the model, which takes 900 pairs/s: set data.workers"),
        (0.5, 410.0, 2, "decode-bound: 2 workers give 410 pairs/s, the model takes 900: try data.workers=5"),
        (0.5, 2000.0, 1, "read-bound: 1 worker gives 2,000 pairs/s once they have their bytes"),
    ],
)
def test_a_run_that_waits_says_what_it_lacks(wait, rate, workers, said):
    found = diagnose({"samples_per_second": 450.0, "data_wait": wait, "decode_rate": rate}, workers)
    assert found.startswith(said)
    assert bool(found) == bool(said)
