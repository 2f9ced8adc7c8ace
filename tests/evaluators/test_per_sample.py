"""Tables of samples beside the records: what is in them, how they are written and what they refuse."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.evaluators.sets import HashEncoder, draw_image, opened, task_on, write_captions, write_classes, write_tar
from tests.processes import run_processes
from vlp.evaluators.base import evaluators
from vlp.evaluators.per_sample import lay_out_samples, read_samples, write_samples
from vlp.evaluators.tasks import run_tasks
from vlp.ground.types import Evaluation, Metric, PerSample, RecipeError

FORMS = [".samples.parquet", ".samples.npz"]


class SaysSamples:
    """A recall of captions, a share of images and a mean over two groups of images."""

    def __init__(self, data):
        self.data = data
        self.texts = ("",)

    def run(self, encoder):
        count = len(self.data)
        num_captions = sum(map(len, self.data.captions))
        samples = {
            "share": PerSample([float(i % 2) for i in range(count)]),
            "recall": PerSample([i / num_captions for i in range(num_captions)]),
            "by_group": PerSample([float(i < 10) for i in range(count)], [int(i >= 8) for i in range(count)]),
        }
        tables = {name: np.asarray(each.values) for name, each in samples.items()}
        metrics = [Metric(name, float(values.mean()), len(values)) for name, values in tables.items()]
        groups = np.asarray(samples["by_group"].groups)
        by_group = np.mean([tables["by_group"][groups == group].mean() for group in (0, 1)])
        metrics[-1] = Metric("by_group", float(by_group), count)
        return Evaluation(tuple(metrics), {}, samples)


@pytest.fixture
def task(tmp_path, monkeypatch):
    len(evaluators)  # finds those that ship
    monkeypatch.setitem(evaluators._parts, "says_samples", SaysSamples)
    return task_on(write_captions(tmp_path / "captions"), "says_samples", "share")


@pytest.fixture(params=FORMS)
def suffix(request, monkeypatch):
    """Both forms: parquet, and npz as where pyarrow is not installed."""
    if request.param == ".samples.npz":
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        monkeypatch.setattr("vlp.evaluators.per_sample.find_spec", lambda name: None)
    return request.param


def test_what_an_evaluator_says_of_each_sample_is_kept_beside_the_record(task, suffix, tmp_path):
    (record,) = run_tasks([task], HashEncoder(), model="m", folder=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"captions.json", f"captions{suffix}"}
    found = read_samples(tmp_path / "out" / "captions")
    assert set(found) == set(record["metrics"])
    for name, metric in record["metrics"].items():
        assert found[name].metric == pytest.approx(metric["value"], abs=1e-12), name
    assert found["share"].values.tolist() == [float(i % 2) for i in range(40)]
    assert found["by_group"].groups.tolist() == [0] * 8 + [1] * 32
    assert found["share"].groups is None
    assert found["share"].keys.tolist() == [f"s{i:07d}" for i in range(40)]
    assert found["recall"].keys.tolist() == [f"s{i:07d}#{k}" for i in range(40) for k in range(i % 3 + 1)]


def test_parquet_is_a_table_that_others_read(task, tmp_path):
    from pyarrow.parquet import read_table

    run_tasks([task], HashEncoder(), model="m", folder=tmp_path)
    table = read_table(tmp_path / "captions.samples.parquet")
    assert table.column_names == ["key", "share", "recall", "by_group", "by_group.group"]
    assert str(table["by_group.group"].type) == "int64"
    assert table["recall"].null_count == 40
    assert table.num_rows == 40 + sum(i % 3 + 1 for i in range(40))


def test_an_evaluation_without_samples_leaves_no_table_and_removes_an_old_one(task, suffix, tmp_path):
    run_tasks([task], HashEncoder(), model="m", folder=tmp_path / "out")
    write_samples(tmp_path / "out" / "captions", {"key": np.array([])})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["captions.json"]
    assert read_samples(tmp_path / "out" / "captions") == {}


def test_a_table_of_the_other_form_does_not_stay(task, tmp_path):
    (tmp_path / "captions.samples.npz").write_bytes(b"old")
    run_tasks([task], HashEncoder(), model="m", folder=tmp_path)
    assert not (tmp_path / "captions.samples.npz").exists()
    assert read_samples(tmp_path / "captions")


def test_a_table_that_cannot_be_written_is_said_and_the_record_returned(task, tmp_path):
    (tmp_path / "file").write_text("")
    (record,) = run_tasks([task], HashEncoder(), model="m", folder=tmp_path / "file")
    assert "file" in record["unwritten"]
    assert record["metrics"]["share"]["value"] == 0.5


def test_a_damaged_table_is_named(task, suffix, tmp_path):
    run_tasks([task], HashEncoder(), model="m", folder=tmp_path)
    path = tmp_path / f"captions{suffix}"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecipeError, match=rf"captions{suffix}.*evaluate again"):
        read_samples(tmp_path / "captions")


def test_parquet_without_pyarrow_says_what_to_install(task, tmp_path, monkeypatch):
    run_tasks([task], HashEncoder(), model="m", folder=tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RecipeError, match=r"captions\.samples\.parquet.*vlp\[data\]"):
        read_samples(tmp_path / "captions")


def test_numbers_of_neither_samples_nor_captions_are_numbered(tmp_path):
    data = opened(write_classes(tmp_path / "classes"))
    columns = lay_out_samples({"pairs": PerSample([1.0, 0.0])}, data)
    assert columns["key"].tolist() == ["0", "1"]


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    data = opened(write_classes(tmp_path / "classes"))
    with pytest.raises(ValueError, match="share"):
        lay_out_samples({"share": PerSample([float("nan")] * 5)}, data)


def write_on_each(rank, world_size, folder):
    """Register the evaluator in this process and keep its samples; return the bytes of the table."""
    len(evaluators)
    evaluators._parts["says_samples"] = SaysSamples
    out = folder / f"out{world_size}"
    run_tasks([task_on(folder / "captions", "says_samples", "share")], HashEncoder(), model="m", folder=out)
    return (out / "captions.samples.parquet").read_bytes()


@pytest.mark.processes
def test_two_processes_write_the_table_of_one(task, tmp_path):
    run_tasks([task], HashEncoder(), model="m", folder=tmp_path / "out1")
    alone = (tmp_path / "out1" / "captions.samples.parquet").read_bytes()
    assert run_processes(write_on_each, 2, tmp_path) == [alone, alone]


@pytest.mark.parametrize("form", FORMS)
def test_keys_of_any_bytes_are_written(tmp_path, monkeypatch, form):
    root = write_captions(tmp_path / "set", [["one"]])
    write_tar(root / "test/0.tar", [("caf\udce9.png", draw_image(0)), ("caf\udce9.txt", b"one")])
    if form == ".samples.npz":
        monkeypatch.setattr("vlp.evaluators.per_sample.find_spec", lambda _name: None)
    columns = lay_out_samples({"recall": PerSample((1.0,))}, opened(root))
    write_samples(tmp_path / "record", columns)
    assert read_samples(tmp_path / "record")["recall"].keys.tolist() == ["caf\\xe9"]
