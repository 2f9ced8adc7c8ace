"""The same numbers in four forms; a mean is over all its tasks or is not there."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.evaluators.sets import task_on
from vlp.evaluators.scoreboard import as_csv, as_json, as_markdown, as_text, scores_of, write_scores
from vlp.evaluators.suites import Suite
from vlp.ground.types import RecipeError


def record(task, value, model="m"):
    metric = {"value": value, "low": value - 0.01, "high": value + 0.01, "count": 50}
    return {"task": task, "model": model, "main_metric": "acc1", "metrics": {"acc1": metric, "acc5": metric}}


@pytest.fixture
def suite():
    return Suite("both", "two tasks", ("a", "b"), {"first": ("a",)})


def scored(tmp_path, suite, *records):
    return scores_of(records, [task_on(tmp_path / name, "zero_shot", "acc1") for name in ("a", "b")], [suite])


def test_a_suite_has_the_mean_of_its_tasks_and_of_its_groups(tmp_path, suite):
    scores = scored(tmp_path, suite, record("a", 0.2), record("b", 0.4))
    assert [(score.task, score.value) for score in scores] == [
        ("a", 0.2),
        ("b", 0.4),
        ("both: first", 0.2),
        ("both: average", pytest.approx(0.3)),
    ]
    assert scores[-1].metric == "mean of 2 tasks"


def test_a_suite_that_lacks_a_task_has_no_mean(tmp_path, suite):
    failed = {"task": "b", "model": "m", "error": "no such set"}
    scores = scored(tmp_path, suite, record("a", 0.2), failed)
    assert [score.task for score in scores] == ["a", "b", "both: first", "both"]
    assert scores[-1].value is None and scores[-1].error == "no mean: b is missing"
    printed = as_text(scores)
    assert "b FAILED (no such set)" in printed
    assert "both FAILED (no mean: b is missing)" in printed


def test_all_forms_tell_the_same(tmp_path, suite):
    scores = scored(tmp_path, suite, record("a", 1 / 3), record("b", 0.4))
    rows = json.loads(as_json(scores))
    assert [row["value"] for row in rows] == [score.value for score in scores]
    read = list(csv.DictReader(io.StringIO(as_csv(scores))))
    assert [float(row["value"]) for row in read] == [score.value for score in scores]
    assert [line.split("|")[4].strip() for line in as_markdown(scores).splitlines()[2:]] == [
        f"{score.value:.4f}" for score in scores
    ]
    assert "0.3333" in as_text(scores) and "model" not in as_text(scores).splitlines()[0]


def test_models_are_named_where_there_are_several(tmp_path, suite):
    scores = [*scored(tmp_path, suite, record("a", 0.2)), *scores_of([record("a", 0.3, "other")], [])]
    assert as_text(scores).splitlines()[0].split()[0] == "model"


def test_the_suffix_says_how_a_table_is_written(tmp_path, suite):
    scores = scored(tmp_path, suite, record("a", 0.2), record("b", 0.4))
    for suffix, write in ((".md", as_markdown), (".csv", as_csv), (".json", as_json)):
        write_scores(tmp_path / f"table{suffix}", scores)
        assert (tmp_path / f"table{suffix}").read_text() == write(scores)
    with pytest.raises(RecipeError, match=r"table\.xlsx: end it with one of \.md, \.csv, \.json"):
        write_scores(tmp_path / "table.xlsx", scores)
    with pytest.raises(RecipeError, match="cannot be written"):
        write_scores(tmp_path / "table.md" / "x.md", scores)
