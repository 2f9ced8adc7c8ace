"""The GPU check on a CPU: phases at the size of toys, and what crashes and hangs cost."""

from __future__ import annotations

import json
import warnings
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu import wheels
from benchmarks.gpu.cases import Finding, Row, Setting, read
from benchmarks.gpu.launches import by_part, count
from benchmarks.gpu.marked_tests import marked_files
from benchmarks.gpu.peer_steps import PeerEpoch
from benchmarks.gpu.reference import FILE, settings_of
from benchmarks.gpu.report import has_failed, short_table, table
from benchmarks.gpu.runner import Assignment, run
from benchmarks.gpu.runs import SIZES, TEACHING, has_recipe
from benchmarks.gpu.steps import TINY, synthetic_parts
from benchmarks.gpu.waits import Waits, in_words
from benchmarks.gpu_check import PHASES, Phase
from tests.gpu_phases.bad import LEFT_BEHIND
from vlp import train
from vlp.strategies.base import strategies

GOOD = Phase("X", "good", "tests.gpu_phases.good", 30)
BAD = Phase("Y", "bad", "tests.gpu_phases.bad", 30)
ENDLESS = Phase("Z", "endless", "tests.gpu_phases.endless", 0.5)
ABSENT = Phase("W", "absent", "tests.gpu_phases.absent", 30)


def check(folder: Path, *phases: Phase) -> tuple[int, dict[tuple[str, str], dict]]:
    """Return the exit status, and the results by phase and case."""
    words = ["--device", "cpu", "--to", f"{folder}/reports", "--scratch", f"{folder}/scratch"]
    status = gpu_check.main([*words, "--wheels", f"{folder}/none"], phases)
    rows = read(folder / "scratch" / "results.jsonl")
    return status, {(row["phase"], row["case"]): row for row in rows}


def is_running(pid: str) -> bool:
    """Whether a process lives; one that nobody has waited for does not."""
    stat = Path("/proc", pid, "stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_check_without_faults_ends_with_0(tmp_path, capsys):
    status, rows = check(tmp_path, GOOD)
    assert status == 0
    assert rows["X", "good"]["status"] == "passed" and rows["X", "good"]["numbers"] == {"seven": 7}
    assert rows["X", "elsewhere"]["measured"] == "needs another machine"
    assert "skipped" in capsys.readouterr().out


@pytest.mark.long
def test_what_crashes_or_hangs_costs_one_case(tmp_path, capfd):
    machine, losses = (phase for phase in PHASES if phase.letter in "AE")
    status, rows = check(tmp_path, machine, BAD, ENDLESS, ABSENT, losses)
    assert status == 1
    found = {case: row["status"] for (phase, case), row in rows.items() if phase == "Y"}
    assert found == {
        **{case: "passed" for case in ("first", "behind the crash", "behind the hang", "last")},
        "crashes": "crashed",
        "hangs": "cut",
        "raises": "failed",
        "is wrong": "failed",
        "is slow": "missed",
    }
    assert rows["Y", "crashes"]["measured"].endswith("SIGSEGV") and "about to crash" in rows["Y", "crashes"]["notes"]
    assert "took longer" in rows["Y", "hangs"]["measured"]
    assert any("bad.py" in line for line in rows["Y", "hangs"]["notes"]), "where it hung"
    assert rows["Y", "raises"]["measured"].startswith("ZeroDivisionError")
    assert not is_running((tmp_path / "scratch" / LEFT_BEHIND).read_text())
    assert rows["Z", "endless"]["status"] == "cut"
    assert "No module named" in rows["W", "absent"]["notes"][-1]
    others = [row for (phase, _), row in rows.items() if phase in "AE"]
    assert {row["status"] for row in others} == {"passed", "skipped"}
    assert all(row["measured"] == "needs CUDA" for row in others if row["status"] == "skipped")
    assert "clip 8,192" in capfd.readouterr().out
    (page,) = (tmp_path / "reports").glob("gpu_*.md")
    assert "| crashes |  | the process ended with SIGSEGV |  | **crashed** |" in page.read_text()
    record = json.loads(page.with_suffix(".json").read_text())
    assert len(record["rows"]) == len(rows) and record["versions"]["torch"] == metadata.version("torch")
    assert str(tmp_path) not in record["command"]


def test_children_can_start_afresh(tmp_path):
    """As they do where importing something has touched the device, and a fork could not use it."""
    setting = Setting("cpu", tmp_path, tmp_path / "results.jsonl")
    run(Assignment("X", GOOD.module, setting, tmp_path / "X.log", 1.0), "spawn")
    assert [row["status"] for row in read(setting.results)] == ["passed", "skipped"]


def test_the_limits_leave_a_minute_of_eight():
    assert sum(phase.seconds or 0 for phase in PHASES) == 460
    assert gpu_check.TOTAL_SECONDS < 480


def test_slow_is_no_fault_and_no_result_is_one():
    rows = [vars(Row("C", "clip", status)) for status in ("passed", "missed", "skipped")]
    assert not has_failed(rows)
    for status in ("failed", "crashed", "cut", "not reached"):
        assert has_failed([*rows, vars(Row("C", "siglip", status))])
    assert has_failed([])
    assert Finding("", problems=("wrong",), missed=True).status == "failed"


def test_tables_show_what_went_wrong():
    rows = [
        vars(Row("D", "clip", "passed")),
        vars(Row("D", "cacr", "failed", "1e-5", "a|b", share=0.4567)),
        vars(Row("E", "clip", "passed", "10 ms", "9 ms")),
    ]
    assert table(rows)[2] == ["cacr", "1e-5", "a|b", "45.6 %", "**failed**"]
    lines = short_table(rows, counted=["D"]).splitlines()
    assert [line.split()[:2] for line in lines] == [["D", "failed"], ["E", "passed"], ["D", "passed"]]
    assert lines[-1].endswith("1 more cases")


def test_the_line_of_a_killed_process_is_forgotten(tmp_path):
    file = tmp_path / "results.jsonl"
    Row("A", "copy", "not reached").append_to(file)
    Row("A", "copy", "passed").append_to(file)
    with file.open("a") as lines:
        lines.write('{"phase": "A", "ca')
    assert [row["status"] for row in read(file)] == ["passed"]


def write_wheel(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}.whl", "w") as archive:
        archive.writestr(f"{name.partition('-')[0]}.py", "there = True\n")


def test_wheels_are_unpacked_where_they_are_needed_and_run(tmp_path):
    folder, site = tmp_path / "wheels", tmp_path / "site"
    for name in ("vlp_absent-1.0-py3-none-any", "vlp_old-1.0-cp39-cp39-manylinux2014_x86_64", "torch-0.1-py3-none-any"):
        write_wheel(folder, name)
    said = wheels.unpack(folder, site)
    assert said == [
        f"torch 0.1: left alone, {metadata.version('torch')} is installed",
        "vlp_absent 1.0: unpacked",
        "vlp_old 1.0: not for this Python but for cp39",
    ]
    assert [path.name for path in site.iterdir()] == ["vlp_absent.py"]


def test_wheels_are_fetched_for_another_python():
    words = wheels.command(["ftfy==6.3.1"], Path("wheels"), "3.12")
    assert words[words.index("--python-version") + 1] == "3.12" and words[-1] == "ftfy==6.3.1"
    assert {"--no-deps", "--only-binary=:all:"} <= set(words)


def test_waits_name_the_line_of_the_project():
    waits = Waits("cpu")
    values = torch.arange(3.0)
    with waits.watched():
        values.sum() + 1
    assert not waits.places
    with waits.watched():
        values.nonzero()
        float(values.sum())
    assert sum(waits.places.values()) == 2


def test_warnings_of_waits_are_counted_and_others_are_not(monkeypatch):
    modes = ["default"]
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    waits = Waits("cuda")
    with waits.watched():
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        with waits.pause():
            assert modes[-1] == "default"
        assert modes[-1] == "warn"
    assert list(waits.places.values()) == [2] and modes[-1] == "default"
    assert in_words(waits.places)[0].startswith("waits 2 x at elsewhere")


def test_views_launch_nothing():
    values = torch.ones(4, 4, requires_grad=True)
    assert count(lambda: values.t()[:2].reshape(-1), "cpu")["launches"] <= 1  # reshape may copy
    assert count(lambda: values.view(16).unsqueeze(0), "cpu")["launches"] == 0
    assert count(lambda: (values + 1) * 2, "cpu")["launches"] == 2


def test_references_cover_all_that_is_compared():
    record = json.loads(FILE.read_text())
    assert record["strategies"].keys() == {name for name in strategies if has_recipe(name)}
    assert {device: len(losses) for device, losses in record["losses"].items()} == {
        device: size.steps for device, size in SIZES.items()
    }
    falling = record["losses"]["cuda"]
    assert min(falling) < falling[0] - 0.2, "a loss that stands still hides wrong gradients"


@pytest.mark.parametrize("name", [name for name in strategies if has_recipe(name) and name not in TEACHING])
def test_references_belong_to_the_recipes_as_they_are(tmp_path, name):
    known = json.loads(FILE.read_text())["settings"][name]
    assert settings_of(name, tmp_path) == known, "renew them: python -m benchmarks.gpu.reference"


def test_a_synthetic_batch_trains(tmp_path):
    parts, batch = synthetic_parts("vitb32_clip", tmp_path, 8, "cpu", [*TINY, "train.precision=float32"])
    assert torch.equal(batch.tokens[0].argmax(dim=1), torch.as_tensor(batch.lengths[0]) - 1)
    losses = [float(train.one_step(parts, batch, step)[0]["loss"]) for step in range(3)]
    assert losses[2] < losses[0]
    found = by_part(parts, batch)
    parts_of_step = {"augment", "towers", "objective", "backward", "optimizer", "step"}
    assert parts_of_step <= found.keys()
    assert found["launches"] == sum(found[part] for part in parts_of_step) == count_step(parts, batch)
    assert found["towers"] < found["backward"] and found["optimizer"] < found["towers"]


def count_step(parts, batch) -> int:
    return count(lambda: train.one_step(parts, batch, 3), "cpu")["launches"]


def test_the_peer_trains_by_its_own_loop():
    epoch = PeerEpoch(None, 4, "cpu")
    before = epoch.model.visual.proj.detach().clone()
    assert len(epoch.seconds(1, 2)) == 2
    assert not torch.equal(before, epoch.model.visual.proj)


def test_every_marked_file_is_run():
    names = [path.name for path in marked_files()]
    assert names[0] == "test_triton.py" and len(names) >= 4
