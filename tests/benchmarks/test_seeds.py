"""Rows of a table are means over runs, of the main metric or of another."""

from __future__ import annotations

import json

import pytest

from benchmarks.seeds import mean_metric, table_of


@pytest.fixture
def folders(tmp_path):
    found = []
    for seed, value in enumerate((0.2, 0.4)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        metrics = {"acc1": {"value": value}, "gap": {"value": 10 * value}}
        (folder / "emoji24.json").write_text(json.dumps({"main_metric": "acc1", "metrics": metrics}))
        found.append(folder)
    return found


def test_the_table_has_the_main_metric_in_percent(folders):
    rows = table_of({"one": folders[:1], "both": folders}, ["emoji24"])
    assert rows == [["way", "emoji24"], ["one", "20.0"], ["both", "30.0"]]


def test_another_metric_stays_as_it_is(folders):
    assert mean_metric(folders, "emoji24", "gap") == pytest.approx(3.0)
