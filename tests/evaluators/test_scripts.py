"""The scripts under eval/: what they refuse, what they compare, and how they end."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.evaluators.sets import HashEncoder, task_on, write_captions, write_classes
from vlp.ground.paths import folders
from vlp.ground.types import RecipeError


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, next(folders("eval")) / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def referee(monkeypatch):
    """The script with a small model in place of the exported one."""
    module = load_script("referee")
    monkeypatch.setattr(module, "load_model", lambda name: name)
    monkeypatch.setattr(module, "TowerEncoder", lambda model: HashEncoder())
    return module


@pytest.fixture
def tasks(tmp_path):
    return [
        task_on(write_classes(tmp_path / "classes"), "zero_shot", "acc1"),
        task_on(write_captions(tmp_path / "captions"), "retrieval", "mean_recall@1"),
    ]


def answer(referee, monkeypatch, ours, shift):
    def theirs(model, task, python):
        return {referee.THEIR_NAME[name]: value + shift for name, (value, _, _) in ours[task.name].items()}

    monkeypatch.setattr(referee, "their_numbers", theirs)


@pytest.mark.parametrize(("shift", "status"), [(0.0, 0), (1e-9, 1), (-1e-2, 1)])
def test_any_difference_in_classification_ends_with_one(referee, tasks, monkeypatch, tmp_path, capsys, shift, status):
    answer(referee, monkeypatch, referee.our_numbers(tmp_path, tasks[:1]), shift)
    assert referee.compare(tmp_path, tasks[:1], tmp_path) == status
    assert ("DIFFERENT" in capsys.readouterr().out) == bool(status)


@pytest.mark.parametrize(("shift", "status"), [(0.0, 0), (1e-8, 0), (1e-5, 1)])
def test_retrieval_may_differ_by_float32_rounding_only(referee, tasks, monkeypatch, tmp_path, capsys, shift, status):
    answer(referee, monkeypatch, referee.our_numbers(tmp_path, tasks[1:]), shift)
    assert referee.compare(tmp_path, tasks[1:], tmp_path) == status
    assert capsys.readouterr().out.count("_recall@") == 6


def test_what_clip_benchmark_does_not_do_is_refused(referee, tmp_path, tasks):
    geometry = task_on(tmp_path / "captions", "geometry", "auc")
    with pytest.raises(RecipeError, match="geometry"):
        referee.compare(tmp_path, [geometry], tmp_path)
    named = task_on(tmp_path / "classes", "zero_shot", "acc1", class_names="classnames/imagenet1k.txt")
    with pytest.raises(RecipeError, match="own prompts"):
        referee.compare(tmp_path, [named], tmp_path)
    corrupted = task_on(tmp_path / "classes", "zero_shot", "acc1", corruption={"kind": "fog", "severity": 1})
    with pytest.raises(RecipeError, match="task 'classes' corrupts what it reads"):
        referee.compare(tmp_path, [corrupted], tmp_path)


def test_a_failed_referee_is_no_success(referee, tasks, tmp_path):
    with pytest.raises(RecipeError, match="CLIP_benchmark failed"):
        referee.their_numbers(tmp_path, tasks[0], sys.executable)


@pytest.mark.parametrize("status", [0, 1])
def test_zero_shot_ends_with_the_status_of_the_evaluation(monkeypatch, tmp_path, status):
    script = load_script("zero_shot")
    calls = []
    monkeypatch.setattr(script, "evaluate_model", lambda *arguments: calls.append(arguments) or status)
    monkeypatch.setattr(sys, "argv", ["zero_shot.py", "model", "--tasks", "emoji24", "--to", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == status
    assert calls == [("model", ["emoji24"], tmp_path)]
