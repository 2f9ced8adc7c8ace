"""Lines, what a restart keeps of them, and trackers that break."""

from __future__ import annotations

import json
import math

import pytest

from vlp.log import Log


def open_log(path, *, first_step=0, track=None):
    return Log(path, num_steps=10, first_step=first_step, is_main=True, track=track)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_is_strict_json(tmp_path):
    log = open_log(tmp_path / "metrics.jsonl")
    log.write(1, {"loss": math.nan, "scale": math.inf, "rate": 0.5})
    log.close()
    (line,) = lines_of(tmp_path / "metrics.jsonl")
    assert (line["step"], line["loss"], line["scale"], line["rate"]) == (1, None, None, 0.5)


def test_a_restart_drops_the_lines_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = open_log(path)
    for step in range(1, 6):
        log.write(step, {"loss": float(step)})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    log = open_log(path, first_step=3)
    log.write(4, {"loss": 40.0})
    log.close()
    assert [(line["step"], line["loss"]) for line in lines_of(path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert log.seconds >= lines_of(path)[2]["seconds"]


def test_a_broken_tracker_does_not_stop_the_run(tmp_path, capsys):
    calls = []

    def track(metrics, step):
        calls.append(step)
        raise ConnectionError("no route")

    log = open_log(tmp_path / "metrics.jsonl", track=track)
    log.write(1, {"loss": 1.0})
    log.write(2, {"loss": 1.0})
    log.close()
    assert calls == [1]
    assert len(lines_of(tmp_path / "metrics.jsonl")) == 2
    assert "trackers are off from here on: no route" in capsys.readouterr().err


def test_other_processes_are_silent(tmp_path, capsys):
    log = Log(tmp_path / "metrics.jsonl", num_steps=1, first_step=0, is_main=False, track=None)
    log.write(1, {"loss": 1.0})
    log.step()
    log.say("hello")
    log.close()
    assert not (tmp_path / "metrics.jsonl").exists()
    assert capsys.readouterr().err == ""
    assert log.seconds == pytest.approx(0, abs=5)
