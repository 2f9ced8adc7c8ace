"""The benchmark of evaluators: what its cases measure, and what its table says."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import bench_evaluators
from benchmarks.bench_evaluators import FULL, Found, table
from benchmarks.evaluator_cases import draw_pairs, make_set, measured, pad, probe, processes, retrieval
from benchmarks.tables import ratio, spread
from vlp.evaluators.dataset import DataSource, open_set

NUMBERS = {
    "retrieval": {"seconds": 4.0, "bytes": 100e6},
    "peer_retrieval": {"seconds": 40.0, "bytes": 5e9},
    "classifier": {"tokens_saved": 8.0, "ours_0": 10.0, "peer_0": 70.0},
    "1 processes": {"seconds": 20.0},
    "2 processes": {"seconds": 10.0},
    "probe 10": {"seconds": 5.0, "peer_seconds": 10.0, "same": 1.0},
    "probe 100": {"seconds": 50.0, "peer_seconds": 25.0, "same": 0.9999},
    "stream": {"seconds": 99.0, "bytes": 150e6},
}


def test_memory_is_what_work_adds():
    kept = []
    numbers = measured(lambda: kept.append(torch.ones(25_000_000)))
    assert 90e6 < numbers["bytes"] < 200e6 and numbers["seconds"] > 0
    del kept
    assert measured(lambda: None)["bytes"] < 50e6  # the peak before is forgotten


def test_every_image_has_captions_near_it():
    images, captions, owners = draw_pairs(7, 23)
    assert set(owners.tolist()) == set(range(7))
    assert torch.equal((captions @ images.T).argmax(dim=1), owners)
    assert retrieval(20, 100)["seconds"] > 0


def test_texts_are_padded_as_the_peer_has_them():
    assert pad(torch.tensor([[1, 2]]), 5).tolist() == [[1, 2, 0, 0, 0]]


def test_the_set_of_pictures_is_made_once(tmp_path, monkeypatch):
    folder = make_set(tmp_path, 3)
    assert len(open_set(DataSource(root=str(folder)))) == 3
    monkeypatch.setattr("benchmarks.evaluator_cases.pack_set", lambda *_, **__: pytest.fail("made again"))
    assert make_set(tmp_path, 3) == folder
    assert processes(str(folder), 2)["seconds"] > 0


def test_the_table_has_every_question_and_what_was_wanted():
    found = Found()
    for case, numbers in NUMBERS.items():
        found.add(case, numbers)
        found.add(case, numbers)
    rows = table(found, FULL)
    assert {len(row) for row in rows} == {5}
    assert [row[3] for row in rows[1:]] == ["10.0 x", "50.0 x", "", "7.0 x", "2.0 x", "0.5 x", "2.00 x"]
    assert "87.5 % of them (80 %)" in rows[4][4]


def test_a_probe_is_the_one_that_scikit_learn_finds():
    numbers = probe(400, 4)
    assert numbers["same"] > 0.99 and numbers["penalty"] > 0


def test_medians_and_their_spread():
    assert spread([1.0, 2.0, 3.0]) == "2.00 (1.20 .. 2.80)"
    assert ratio([4.0, 9.0, 6.0], [3.0, 2.0, 1.0]) == 3.0


def test_a_round_is_a_process_per_case(tmp_path, monkeypatch):
    asked = []

    def run(case, settings, package, num_processes=0):
        asked.append(case)
        if case == "probe":
            return NUMBERS[f"probe {settings['classes']}"]
        return NUMBERS[f"{num_processes} processes" if num_processes else case]

    monkeypatch.setattr(bench_evaluators, "run", run)
    monkeypatch.setattr(bench_evaluators, "install", lambda folder: folder)
    monkeypatch.setattr(bench_evaluators, "make_set", lambda folder, images: folder)
    bench_evaluators.main(["--rounds", "2", "--to", str(tmp_path), "--scratch", str(tmp_path)])
    (page,) = tmp_path.glob("*.json")
    values = json.loads(page.read_text())["found"]
    assert len(values["retrieval"]) == len(values["2 processes"]) == 2 and len(values["stream"]) == 1
    assert asked.count("processes") == 4
