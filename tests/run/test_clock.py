"""Signals are remembered, speed leaves out pauses, waiting is counted."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from vlp.run import clock, device_idle
from vlp.run.clock import Clock, StopSignal, diagnose, due
from vlp.run.device_idle import DeviceIdle, watch


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


@pytest.mark.parametrize(
    ("anew", "said"), [(0, ""), (1, "compile-bound: 1 graph was"), (3, "compile-bound: 3 graphs were")]
)
def test_a_run_that_goes_on_compiling_says_so(anew, said):
    found = diagnose({"samples_per_second": 9.0, "data_wait": 0.0, "decode_rate": 0.0, "compiled_anew": float(anew)}, 2)
    assert found.startswith(said)
    assert bool(found) == bool(said)


class Stream:
    """A device whose work takes as long as it is told, and its events."""

    def __init__(self, timer):
        self.timer, self.free_at = timer, timer.now

    def launch(self, seconds):
        self.free_at = max(self.free_at, self.timer.now) + seconds

    def event(self):
        return Marker(self)


class Marker:
    def __init__(self, stream):
        self.stream = stream

    def record(self):
        self.at = max(self.stream.free_at, self.stream.timer.now)

    def synchronize(self):
        self.stream.timer.now = max(self.at, self.stream.timer.now)

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


def watched(timer, monkeypatch, *, data, launching, working, between=0.0, steps=5):
    """Metrics of a lap of steps for which the host waits, launches and does other things, and the device works."""
    monkeypatch.setattr(device_idle, "time", timer)
    stream = Stream(timer)

    def batches():
        while True:
            yield
            timer.now += data

    clock = Clock(0, 0, DeviceIdle(stream.event))
    source = clock.waiting(batches())
    for _ in range(steps + 1):
        next(source)
        timer.now += launching
        stream.launch(working)
        clock.step_launched()
        with clock.paused():
            pass
        timer.now += between
    next(source)
    return clock.lap(steps, 16 * steps)


@pytest.mark.parametrize(
    ("host", "wait", "idle", "bound"),
    [
        ({"data": 0.2, "launching": 0.1, "working": 1.0}, 0.0, 0.0, ""),  # data come while the device works
        ({"data": 2.0, "launching": 0.1, "working": 1.0}, 0.5, 0.5, "decode-bound"),
        ({"data": 0.1, "launching": 0.1, "working": 1.0, "between": 2.0}, 0.05, 0.5, "host-bound"),
        ({"data": 0.0, "launching": 1.0, "working": 0.01}, 0.0, 0.0, "launch-bound"),
    ],
)
def test_a_device_says_what_it_waited_for(timer, monkeypatch, host, wait, idle, bound):
    found = watched(timer, monkeypatch, **host)
    assert found["data_wait"] == pytest.approx(wait, abs=0.06)
    assert found["device_idle"] == pytest.approx(idle, abs=0.06)
    assert diagnose(found | {"decode_rate": 0.0}, 0).partition(":")[0] == bound


def test_what_is_paused_is_no_idle_time(timer, monkeypatch):
    monkeypatch.setattr(device_idle, "time", timer)
    stream = Stream(timer)
    clock = Clock(0, 0, DeviceIdle(stream.event))
    source = clock.waiting(iter(range(4)))
    for _ in range(3):
        next(source)
        stream.launch(1.0)
        clock.step_launched()
        timer.now += 1.0
        with clock.paused():
            timer.now += 50.0
    next(source)
    assert clock.lap(3, 48)["device_idle"] == 0
    assert clock.lap(3, 48).keys() == {
        "samples_per_second",
        "data_wait",
    }  # without a step, nothing is known of a device


def test_a_processor_has_no_events():
    assert watch(torch.device("cpu")) is None
