"""The loader benchmark: its sets, its cases, and what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import bench_loader
from benchmarks.jpeg_sets import NUM_WORDS, SETS, JpegSet, cut, members
from benchmarks.loader_cases import Case, compare, crop, decibels, measure
from benchmarks.loader_report import OURS, PEER, STAGES, WORKERS, Results, Row, micros, speedup, targets, write_report
from benchmarks.measure import tree_seconds
from vlp.ground.randomness import Draws

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
ABOUT = {
    "date": "2030-01-31",
    "commit": "0123456789ab",
    "machine": "Some CPU (R) 9000, 2 cores",
    "versions": {"torch": "2.15.0"},
    "peer_versions": {"open_clip_torch": "4.0.1", "webdataset": "0.2.86"},
    "sets": {"A": [1024, 72]},
    "rounds": 2,
    "rounds_wanted": 2,
    "command": "python -m benchmarks.bench_loader",
}


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.jpeg_sets.photographs", lambda: [PHOTO])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return str(tmp_path)


@pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", [0.5, 1.0, 1.5])
def test_images_have_the_size_of_their_set(kind, shape):
    size = kind.size(shape)
    assert (max(size) if kind.side == "longest" else min(size)) == kind.pixels
    assert size[0] / size[1] == pytest.approx(shape, rel=0.01)
    assert cut(PHOTO, size, Draws(0)).size == size


def test_samples_are_the_same_in_every_making():
    kind = JpegSet("B", "shortest", 64, 4)
    first, again, other = (dict(members(kind, number, [PHOTO])) for number in (0, 0, 1))
    assert first == again and first.keys() != other.keys()
    assert len(first["000000000.txt"].split()) == NUM_WORDS
    assert json.loads(first["000000000.json"])["caption"].encode() == first["000000000.txt"]


def test_both_crops_are_compared_with_pillow():
    (_, data), *_ = members(JpegSet("A", "longest", 640, 1), 0, [PHOTO])
    assert compare(crop("exact"), data, 0) > 65
    assert decibels(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)) > 50
    assert decibels(np.zeros((1, 1), np.uint8), np.full((1, 1), 255, np.uint8)) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_is_measured_with_its_processes(scratch, workers, monkeypatch):
    monkeypatch.setattr("benchmarks.loader_cases.BATCH_SIZE", 16)
    found = measure(Case(OURS, "B", 32, 1, workers, scratch))
    assert found.keys() == {"cpu", "wall"} and min(found.values()) > 1e-5


def test_stages_and_codec_are_measured(scratch):
    stages, codec = (measure(Case(name, "B", 64, 1, 0, scratch)) for name in ("stages", "codec"))
    assert set(STAGES) < stages.keys() and min(stages.values()) > 0
    assert codec["entropy"] < codec["cpu"]


def test_processor_time_of_children_counts_while_they_run_and_after():
    child = subprocess.Popen(
        [sys.executable, "-c", "sum(range(10**7)); print(flush=True); input()"], stdin=-1, stdout=-1
    )
    before = tree_seconds(os.getpid()) - tree_seconds(child.pid)
    child.stdout.readline()
    running = tree_seconds(os.getpid())
    child.communicate(b"\n")
    assert running >= before + 0.05 and tree_seconds(os.getpid()) >= running


def test_time_that_moves_from_a_child_to_its_parent_stays_the_same(tmp_path, monkeypatch):
    """In ticks of 10 ms: sums of their fractions differ by how they are grouped."""
    for case, ticks in enumerate(({1: 6, 2: 57, 3: 1400}, {1: 63, 2: 1400})):
        for pid, number in ticks.items():
            file = tmp_path / str(case) / str(pid) / "stat"
            file.parent.mkdir(parents=True)
            file.write_text(f"{pid} (one) S {pid - 1} {'0 ' * 9}{number} 0 0 0\n")
        monkeypatch.setattr("benchmarks.measure.PROC", tmp_path / str(case))
        assert tree_seconds(1) == 14.63


def test_every_case_stands_beside_its_peer():
    found = list(bench_loader.cases(bench_loader.build_parser().parse_args([])))
    ours, theirs = ({(case.kind, case.workers) for case in found if case.name == name} for name in (OURS, PEER))
    assert ours == theirs and len(ours) == len(SETS) * len(WORKERS)


def test_parts_of_batches_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench_loader.main(["--samples", "1000", "1024", "512"])
    assert "multiples of 512" in capsys.readouterr().err


def test_numbers_are_never_shown_better_than_they_are():
    assert speedup(4.4999) == "4.49 x" and micros(123.2e-6) == "124" and micros(3.01e-6) == "3.1"


def test_a_target_compares_medians():
    rows = [Row(PEER, "A", 0, {"cpu": [7e-3, 9e-3, 8e-3]}), Row(OURS, "A", 0, {"cpu": [2e-3, 1e-3, 9e-3]})]
    assert Results(rows).cheaper("cpu", OURS, "A", 0) == pytest.approx(4.0)
    verdicts = {target.what: target.reached for target in targets(rows, {"C": {"fast": [50.0, 35.0]}})}
    assert verdicts["set A, 0 workers: CPU time of open_clip relative to ours"] is True
    assert verdicts["set A, 1 workers: CPU time of open_clip relative to ours"] is None
    assert verdicts["set C: fast crops against Pillow's, worst"] is False


def test_the_report_shows_all_parts(tmp_path):
    cost = {"cpu": [1e-3, 2e-3], "wall": [1e-3, 2e-3]}
    rows = [Row(name, kind, 0, cost) for kind in "ABC" for name in (PEER, OURS)]
    stages = {name: [1e-5, 1e-5] for name in (*STAGES, "open_clip tokenise")}
    rows += [Row("stages", kind, 0, stages) for kind in "ABC"]
    rows += [Row("codec", kind, 0, {"cpu": [1e-4], "entropy": [1e-5]}) for kind in "ABC"]
    page = write_report(tmp_path, ABOUT, rows, {"A": {"exact": [70.0, 60.0]}})
    text = page.read_text()
    assert page.name == "loader_some-cpu-r-9000-2-cores_2030-01-31.md"
    assert " Beside open_clip 4.0.1.\n" in text
    assert "| rest | 1,430 | 1,430 | 1,430 |" in text and "| A | exact | 65.0 dB | 60.0 dB |" in text
    assert "**missed**" in text and json.loads(page.with_suffix(".json").read_text())["targets"]
