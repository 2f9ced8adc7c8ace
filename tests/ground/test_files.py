"""Files that are written whole or not at all, and lines that wait for a disk with room."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from vlp.ground import files
from vlp.ground.files import Records, read_records, remove_leftovers, seal, write_text, write_whole


def test_a_file_is_replaced_whole_and_readable_by_others(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")
    write_text(path, "new \u00e9")
    assert path.read_text(encoding="utf-8") == "new \u00e9"
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), MemoryError(), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["block", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_file_before_and_nothing_else(tmp_path, monkeypatch, where, failure):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(*_):
        raise failure

    if where != "block":
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(type(failure)), write_whole(path) as file:
        file.write(b"half")
        if where == "block":
            fail()
    monkeypatch.undo()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file.txt", "old")]


def test_a_file_system_that_cannot_sync_folders_is_no_failure(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(handle):
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "file.txt", "new")
    assert (tmp_path / "file.txt").read_text() == "new"


def test_leftovers_go_and_strangers_stay(tmp_path):
    (tmp_path / ".step_00000003.0a1b2c3d.partial").mkdir()
    (tmp_path / ".step_00000003.0a1b2c3d.partial" / "model.safetensors").write_text("half")
    (tmp_path / ".metrics.jsonl.0a1b2c3d.partial").write_text("half")
    for name in ("metrics.jsonl", ".hidden", "my.partial"):
        (tmp_path / name).write_text("mine")
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "nowhere")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".hidden", "metrics.jsonl", "my.partial"]


HOSTILE = [b'{"step": 6, "lo', b"\xff\xfe\x00", b"[1, 2]", b"7", b"null", b'{"loss": 1}', b"[" * 100_000, b"\x00" * 9]
HOSTILE += [b'{"step": ' + b"9" * 5000 + b"}"]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: repr(line[:12]))
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_torn_and_foreign_lines_are_counted_and_left_out(tmp_path, line, end):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n' + line + end)
    records, others = read_records(path, lambda record: "step" in record)
    assert ([record["step"] for record in records.values()], others) == ([1, 2], 2)


def test_every_flipped_bit_of_a_line_is_noticed(tmp_path):
    path = tmp_path / "lines.jsonl"
    for count in (1, 3):
        content = b"".join(seal({"step": step, "loss": 0.25 * step}) + b"\n" for step in range(count))
        for bit in range(8 * len(content)):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            records, others = read_records(path, lambda _: True)
            at_the_end = bit // 8 == len(content) - 1  # the last end of a line may be missing
            assert others or at_the_end, (bit, bytes(changed))
            assert all(record == {"step": record["step"], "loss": 0.25 * record["step"]} for record in records.values())
            assert len(records) >= count - 2


def test_lines_of_older_versions_get_checksums(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n')
    records, others = read_records(path, lambda _: True)
    assert (list(records), others) == ([seal({"step": 1}), seal({"step": 2})], 0)


def test_a_last_line_without_an_end_is_a_line(tmp_path):
    (tmp_path / "lines.jsonl").write_bytes(b'{"step": 1}\n\n{"step": 2}')
    records, others = read_records(tmp_path / "lines.jsonl", lambda _: True)
    assert ([record["step"] for record in records.values()], others) == ([1, 2], 0)
    assert read_records(tmp_path / "nowhere.jsonl", lambda _: True) == ({}, 0)


def test_lines_wait_until_they_can_be_written(tmp_path, monkeypatch):
    said = []
    path = tmp_path / "folder" / "lines.jsonl"
    records = Records(path, said.append)
    records.add([{"step": 1}])
    records.add([{"step": 2}])
    assert (len(said), records.num_waiting) == (1, 2)
    assert "lines.jsonl cannot be written" in said[0]
    path.parent.mkdir()
    records.add([{"step": 3}])
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert (len(said), records.num_waiting) == (2, 0)
    assert "no line is lost" in said[1]
    records.add([])
    assert len(said) == 2


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    """As a disk does that is full in the middle of a line."""
    path = tmp_path / "lines.jsonl"
    records = Records(path, lambda _: None)
    records.add([{"step": 1}])
    limit = path.stat().st_size + 5
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        records.add([{"step": 2}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert records.num_waiting == 1
    assert path.read_bytes() == seal({"step": 1}) + b"\n"
    records.add([])
    assert path.read_bytes() == seal({"step": 1}) + b"\n" + seal({"step": 2}) + b"\n"


def test_every_temporary_name_is_one_that_is_cleaned_up(tmp_path):
    assert {files.LEFTOVER.fullmatch(files.beside(tmp_path / name).name) is not None for name in ("a", "b.c")} == {True}
