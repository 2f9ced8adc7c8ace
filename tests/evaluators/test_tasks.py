"""Tasks: mistakes are named, failures stay alone, records are strict JSON."""

from __future__ import annotations

import json
import math

import pytest

from tests.evaluators.sets import HashEncoder, task_on, write_captions, write_classes
from vlp.evaluators.base import Task
from vlp.evaluators.record import flatten, headline, table, to_json
from vlp.evaluators.tasks import run_task, run_tasks
from vlp.ground.types import RecipeError

MAIN = {"zero_shot": "acc1", "retrieval": "mean_recall@1", "geometry": "modality_gap"}


def make_task(name, folder):
    write = write_classes if name == "zero_shot" else write_captions
    return task_on(write(folder / name), name, MAIN[name])


def checked(**changes):
    good = {"version": 1, "evaluator": "zero_shot", "main_metric": "acc1", "data": {"root": "somewhere"}}
    return Task.from_mapping("t", good | changes, "eval/t.yaml")


@pytest.mark.parametrize("name", sorted(MAIN))
def test_records_are_strict_json_with_all_that_a_number_needs(name, tmp_path):
    record = run_task(
        make_task(name, tmp_path), HashEncoder(), model="m", step=7, weights="ema", preprocess={"size": 8}
    )
    assert json.loads(to_json(record)) == record
    for key in ("prompts_sha256", "data_sha256", "versions", "commit", "seconds", "date", "details", "settings"):
        assert record[key], key
    assert (record["task"], record["version"], record["evaluator"]) == (name, 1, name)
    assert (record["model"], record["step"], record["weights"], record["preprocess"]) == ("m", 7, "ema", {"size": 8})
    assert next(iter(record["metrics"])) == MAIN[name]
    for metric in record["metrics"].values():
        assert set(metric) == {"value", "low", "high", "count"}
        assert math.isfinite(metric["value"])


@pytest.mark.parametrize("name", sorted(MAIN))
def test_evaluating_twice_gives_the_same_numbers(name, tmp_path):
    task = make_task(name, tmp_path)
    first, second = (run_task(task, HashEncoder(), model="m") for _ in range(2))
    assert first["metrics"] == second["metrics"]
    assert first["details"] == second["details"]


def test_other_prompts_have_another_hash(tmp_path):
    task = make_task("zero_shot", tmp_path)
    before = run_task(task, HashEncoder(), model="m")
    (tmp_path / "zero_shot" / "zeroshot_classification_templates.txt").write_text("the {c}\n")
    after = run_task(task, HashEncoder(), model="m")
    assert before["prompts_sha256"] != after["prompts_sha256"]


def test_a_nan_is_never_written():
    with pytest.raises(ValueError, match="JSON"):
        to_json({"value": math.nan})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"verion": 2}, "verion.*version"),
        ({"version": "one"}, "version"),
        ({"data": {}}, r"data\.root"),
        ({"data": {"root": "x", "sample": 3}}, r"data\.sample.*samples"),
        ({"evaluator": "zeroshot"}, "zeroshot.*zero_shot"),
        ({"settings": {"prompt": "x"}}, "settings.*prompt.*prompts"),
        ({"settings": {"prompts": 3}}, "settings.*prompts"),
    ],
)
def test_a_mistake_in_a_task_names_the_file_the_key_and_a_neighbour(changes, named):
    with pytest.raises(RecipeError, match=f"(?s)eval/t.yaml.*{named}"):
        checked(**changes)


def test_a_main_metric_that_is_not_measured_is_an_error(tmp_path):
    task = task_on(write_classes(tmp_path / "set"), "zero_shot", "acc")
    with pytest.raises(RecipeError, match=r"'acc'.*acc1"):
        run_task(task, HashEncoder(), model="m")


def test_a_broken_set_does_not_stop_the_others(tmp_path):
    broken, whole = make_task("zero_shot", tmp_path), make_task("retrieval", tmp_path)
    (tmp_path / "zero_shot" / "test" / "1.tar").unlink()
    records = run_tasks([broken, whole], HashEncoder(), model="m", step=3, folder=tmp_path / "out")
    assert "1.tar" in records[0]["error"]
    assert "metrics" in records[1]
    assert json.loads((tmp_path / "out" / "zero_shot.json").read_text())["error"] == records[0]["error"]
    assert json.loads((tmp_path / "out" / "retrieval.json").read_text()) == records[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["retrieval.json", "zero_shot.json"]

    assert set(flatten(records)) == {f"eval/retrieval/{name}" for name in records[1]["metrics"]}
    assert headline(records[0]).startswith("zero_shot FAILED")
    assert headline(records[1]).startswith("retrieval mean_recall@1 0.")
    printed = table(records)
    assert "mean_recall@1" in printed
    assert printed.splitlines()[-1].startswith("zero_shot FAILED")


def test_the_columns_of_the_table_are_aligned(tmp_path):
    lines = table(run_tasks([make_task("zero_shot", tmp_path)], HashEncoder(), model="m")).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["task", "metric", "value", "95", "%", "interval", "n"]
