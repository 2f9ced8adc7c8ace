"""The chaos does what it says; and at every event of a save a training may be killed, or find the disk full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.file_events import FileEvents
from benchmarks.forked_runs import Reference, differences

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent.parent


def do(folder: Path, action, **settings) -> int:
    """Do something to a folder in a process of its own, with one event going wrong; return how it ended."""
    log = folder.parent / "events.tsv"
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            FileEvents(folder, log=handle, **settings).install()
            code = action() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kinds(folder: Path) -> list[str]:
    return [" ".join(line.split("\t")[1:3]) for line in (folder.parent / "events.tsv").read_text().splitlines()]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "watched").mkdir()
    return tmp_path / "watched"


def test_every_way_to_change_a_file_is_an_event(folder):
    def action():
        (folder / "a").write_text("some words")
        with (folder / "a").open("r+b") as file:
            os.fsync(file.fileno())
        handle = os.open(folder / "b", os.O_WRONLY | os.O_CREAT)
        os.write(handle, b"bytes")
        os.ftruncate(handle, 2)
        os.close(handle)
        (folder / "b").rename(folder / "c")
        (folder / "c").replace(folder / "d")
        (folder / "d").unlink()
        (folder / "inner").mkdir()
        (folder / "inner").mkdir(exist_ok=True)
        (folder / "inner").rmdir()
        (folder.parent / "elsewhere").write_text("")
        (folder / "a").read_text()

    assert do(folder, action) == 0
    assert kinds(folder) == [
        *("open a", "write a", "close a", "open a", "fsync a", "close a"),
        *("open b", "write b", "truncate b", "rename c", "replace d", "unlink d", "mkdir inner", "rmdir inner"),
    ]


def test_native_writers_are_events_and_tear_to_half(folder):
    def action():
        import torch
        from safetensors.torch import save_file

        torch.save({"a": torch.zeros(1000)}, folder / "a")
        save_file({"b": torch.zeros(1000)}, folder / "b")

    assert do(folder, action) == 0
    assert kinds(folder) == ["torch.save a", "save_file b"]
    whole = (folder / "b").stat().st_size
    assert do(folder, action, at=2, mode="torn") == -signal.SIGKILL
    assert (folder / "b").stat().st_size == whole // 2


def test_a_killed_write_leaves_nothing_and_a_torn_one_half(folder):
    def action():
        (folder / "a").write_bytes(b"12345678")

    assert do(folder, action, at=2) == -signal.SIGKILL
    assert (folder / "a").read_bytes() == b""
    assert do(folder, action, at=2, mode="torn") == -signal.SIGKILL
    assert (folder / "a").read_bytes() == b"1234"


def test_a_full_disk_refuses_from_there_on_but_lets_go(folder):
    def action():
        (folder / "a").write_bytes(b"")
        for name in ("b", "c"):
            with pytest.raises(OSError, match="No space left"):
                (folder / name).write_bytes(b"")
        (folder / "a").unlink()

    assert do(folder, action, at=4, mode="full") == 0
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("mode", "left"), [("power", {"old": b"new"}), ("hollow", {"moved": b"new", "fresh": b""})])
def test_what_was_not_synced_is_lost_with_the_power(folder, mode, left):
    (folder / "old").write_bytes(b"old")

    def action():
        with (folder / "old").open("r+b") as file:
            file.write(b"new")
            file.flush()
            os.fsync(file.fileno())
        (folder / "fresh").write_bytes(b"never synced")
        (folder / "old").rename(folder / "moved")
        (folder / "end").mkdir()

    assert do(folder, action, at=9, mode=mode) == -signal.SIGKILL
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == left


def test_a_synced_folder_keeps_its_names(folder):
    def action():
        (folder / "fresh").write_bytes(b"never synced")
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        (folder / "end").mkdir()

    assert do(folder, action, at=5, mode="power") == -signal.SIGKILL
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"fresh": b""}


def test_differences_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5, "seconds": 1.0}\n{"step": 2, "loss": 0.25}\n{"st')
    same = {1: {"step": 1, "loss": (0.5).hex()}, 2: {"step": 2, "loss": (0.25).hex()}}
    assert differences(Reference(same, {}), tmp_path, finished=False) == []
    other = {**same, 2: {"step": 2, "loss": (0.25000001).hex()}}
    assert differences(Reference(other, {}), tmp_path, finished=False) == ["metrics of step 2 differs in loss"]
    assert differences(Reference({**same, 3: {}}, {3: {}}), tmp_path, finished=True) == [
        "the newest whole checkpoint is that of step 0, not 3",
        "metrics of the steps [1, 2]",
        "a torn line of metrics",
    ]


def chaos(work: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.chaos", "--work", str(work), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_save_may_be_killed_at_every_event_and_find_the_disk_full(tmp_path):
    killed = chaos(tmp_path, "--ranks", "1", "--scenes", "last", "--modes", "kill")
    assert killed.returncode == 0, killed.stdout + killed.stderr[-2000:]
    full = chaos(tmp_path, "--ranks", "1", "--scenes", "last", "--modes", "nospace", "--limit", "12")
    assert full.returncode == 0, full.stdout + full.stderr[-2000:]
    outcomes = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert {outcome["event"]["kind"] for outcome in outcomes} >= {"open", "write", "fsync", "unlink"}
    assert len(outcomes) > 30


@pytest.mark.processes
def test_a_save_of_two_processes_may_be_killed(tmp_path):
    done = chaos(tmp_path, "--ranks", "2", "--scenes", "last", "--modes", "kill", "peer", "nospace", "--limit", "1")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
