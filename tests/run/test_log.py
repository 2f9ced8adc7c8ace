"""Lines, what a restart keeps of them, and trackers that break."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time

import pytest

from vlp.ground.files import seal
from vlp.ground.types import RecipeError, VlpWarning
from vlp.run import log as log_module
from vlp.run.log import Log


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
    with pytest.warns(VlpWarning, match="dropped 1 torn or foreign line"):
        log = open_log(path, first_step=3)
    log.write(4, {"loss": 40.0})
    log.close()
    assert [(line["step"], line["loss"]) for line in lines_of(path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert log.seconds >= lines_of(path)[2]["seconds"]


FOREIGN = [
    *(b"\xff\xfe", b"\x00\x00", b"[1]", b'{"loss": 1}', b'{"step": 3}', b'{"step": "3", "seconds": 1}'),
    *(b'{"step": true, "seconds": 1}', b'{"step": NaN, "seconds": 1}', b'{"step": 1.5, "seconds": 1}'),
    *(b'{"step": 2, "seconds": null}', b'{"step": 2, "seconds": Infinity}'),
]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_foreign_line_is_dropped_with_a_warning(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    good = seal({"step": 1, "seconds": 2.5, "loss": None}) + b"\n"
    path.write_bytes(line + b"\n" + good + line + b"\n")
    with pytest.warns(VlpWarning, match="dropped 2 torn or foreign lines"):
        log = open_log(path, first_step=3)
    assert path.read_bytes() == good
    assert log.seconds >= 2.5
    log.close()


def test_a_file_that_needs_no_cut_is_not_touched(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(seal({"seconds": 1, "step": 1}) + b"\n")
    before = path.stat()
    open_log(path, first_step=1).close()
    assert path.stat() == before


def test_a_cut_that_fails_leaves_the_history(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    whole = b"".join(b'{"step": %d, "seconds": 1}\n' % step for step in range(1, 9))
    path.write_bytes(whole)

    def killed(*_):
        raise OSError("killed")

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(RecipeError, match=r"metrics.jsonl: cannot be cut to step 3 \(killed\)"):
        open_log(path, first_step=3)
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert path.read_bytes() == whole


def test_a_line_is_in_the_file_when_it_was_written(tmp_path):
    log = open_log(tmp_path / "metrics.jsonl")
    log.write(1, {"loss": 1.0})
    assert [line["step"] for line in lines_of(tmp_path / "metrics.jsonl")] == [1]
    log.close()


def test_lines_that_cannot_be_written_wait_and_are_told(tmp_path, capsys):
    path = tmp_path / "run" / "metrics.jsonl"
    log = open_log(path)
    log.write(1, {"loss": 1.0})
    log.write(2, {"loss": 1.0})
    path.parent.mkdir()
    log.write(3, {"loss": 1.0})
    log.close()
    assert [line["step"] for line in lines_of(path)] == [1, 2, 3]
    said = capsys.readouterr().err
    assert said.count("metrics.jsonl cannot be written") == 1
    assert said.count("no line is lost") == 1


def test_lines_that_never_found_room_are_told(tmp_path, capsys):
    log = open_log(tmp_path / "run" / "metrics.jsonl")
    log.write(1, {"loss": 1.0})
    log.close()
    assert "1 lines of" in capsys.readouterr().err


def test_a_progress_line_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch):
    class Full:
        encoding = "utf-8"

        def write(self, *_text):
            raise OSError(28, "No space left on device")

        flush = isatty = fileno = write

    monkeypatch.setattr(sys, "stderr", Full())
    log = open_log(tmp_path / "metrics.jsonl")
    log.step()
    log.show({"loss": 1.0})
    log.say("hello")
    log.write(1, {"loss": 1.0})
    log.close()
    monkeypatch.undo()
    assert len(lines_of(tmp_path / "metrics.jsonl")) == 1


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


def test_a_file_gets_plain_lines_now_and_then(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    log = open_log(tmp_path / "metrics.jsonl")
    for step in range(1, 11):
        now[0] += 12.0
        log.step()
        log.show({"loss": 1 / step, "samples_per_second": 80.0}, "waits" if step == 4 else "")
    log.close()
    assert capsys.readouterr().err.splitlines() == [
        "step 1/10, 01:48 left: loss 1 pairs/s 80",
        "step 4/10, 01:12 left: loss 0.25 pairs/s 80 (waits)",
        "step 7/10, 00:36 left: loss 0.1429 pairs/s 80",
        "step 10/10: loss 0.1 pairs/s 80",
    ]


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    log = open_log(tmp_path / "metrics.jsonl")
    log.step()
    log.show({"loss": 0.5})
    log.say("hello")
    log.close()
    assert "\r" in terminal.getvalue()
    assert "hello\n" in terminal.getvalue()
    assert "step/s" in terminal.getvalue()


class Terminal(io.StringIO):
    """Says that somebody looks at it."""

    def isatty(self):
        return True


def test_a_terminal_gets_metrics_behind_the_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    log = open_log(tmp_path / "metrics.jsonl")
    log.step()
    log.show({"loss": 1.25}, "read-bound")
    log.close()
    assert "loss 1.25 (read-bound)" in sys.stderr.getvalue()


def test_plain_lines_say_how_long_the_rest_takes(tmp_path, monkeypatch, capsys):
    clock = iter([100.0, *[130.0] * 20])
    monkeypatch.setattr(log_module.time, "monotonic", lambda: next(clock))
    log = open_log(tmp_path / "metrics.jsonl")  # of ten steps
    for _ in range(3):
        log.step()
    log.show({"loss": 1.0})
    assert "step 3/10, 01:10 left: loss 1" in capsys.readouterr().err


def test_a_run_without_a_line_has_taken_no_time(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = open_log(path)
    log.write(1, {"loss": 1.0})
    log.close()
    assert open_log(path, first_step=0).earlier_seconds == 0.0
    assert path.read_bytes() == b""
