"""eval/referee.py: whom it asks about what, what counts as equal, and how it ends."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.evaluators.kinds import write_set
from tests.evaluators.sets import HashEncoder, task_on, write_captions, write_classes
from tests.evaluators.splits import write_splits
from vlp.evaluators.base import load_task
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.paths import folders
from vlp.ground.types import RecipeError


@pytest.fixture
def referee(monkeypatch):
    """The script with a small model in place of the exported one."""
    monkeypatch.syspath_prepend(str(next(folders("eval"))))
    module = importlib.import_module("referee")
    monkeypatch.setattr(module, "load_model", lambda name: name)
    monkeypatch.setattr(module, "TowerEncoder", lambda model: HashEncoder())
    return module


class Echo:
    """Says what we say, and a little more."""

    name = "echo"

    def __init__(self, shift, slack):
        self.shift, self.slack = shift, slack

    def objection(self, task):
        return None

    def prepared(self, task):
        return task

    def answer(self, task, encoder, record):
        answers = importlib.import_module("referees.answers")
        values = {name: metric["value"] + self.shift for name, metric in record["metrics"].items()}
        return answers.Answer(values, self.slack)


@pytest.mark.parametrize(
    ("shift", "slack", "status"), [(0.0, 0.0, 0), (1e-9, 0.0, 1), (-1e-2, 0.0, 1), (1e-8, 1e-6, 0), (1e-5, 1e-6, 1)]
)
def test_only_rounding_of_the_referee_is_forgiven(referee, tmp_path, capsys, shift, slack, status):
    task = task_on(write_classes(tmp_path / "classes"), "zero_shot", "acc1")
    assert referee.compare(tmp_path, [task], {"zero_shot": Echo(shift, slack)}) == status
    printed = capsys.readouterr().out
    assert ("DIFFERENT" in printed) == bool(status)
    assert printed.rstrip().endswith("numbers differ" if status else "equal")


def test_numbers_within_what_ties_leave_open_are_equal(referee, tmp_path):
    task = task_on(write_captions(tmp_path / "captions", [["one word"]] * 4), "retrieval", "mean_recall@1")
    assert referee.compare(tmp_path, [task], {"retrieval": Echo(0.2, 1e-6)}) == 1  # medians and means have no bounds
    record = {"metrics": {"recall": {"value": 0.5}}, "details": {"bounds": {"recall": (0.25, 0.75)}}}
    answers = importlib.import_module("referees.answers")
    assert referee.show(task, record, answers.Answer({"recall": 0.75, "not there": 1.0})) == 0
    assert referee.show(task, record, answers.Answer({"recall": 0.76})) == 1


def test_a_task_that_cannot_be_run_does_not_stop_the_others_and_is_no_success(referee, tmp_path, capsys):
    whole = task_on(write_classes(tmp_path / "classes"), "zero_shot", "acc1")
    absent = task_on(tmp_path / "absent", "zero_shot", "acc1")
    assert referee.compare(tmp_path, [absent, whole], {"zero_shot": Echo(0.0, 0.0)}) == 1
    printed = capsys.readouterr().out
    assert "1 tasks not compared: absent" in printed and "classes " in printed


@pytest.mark.parametrize(
    ("evaluator", "metric", "changes", "settings", "reason"),
    [
        ("zero_shot", "acc1", {"corruption": {"kind": "fog", "severity": 1}}, {}, "corrupts what it reads"),
        ("zero_shot", "acc1", {}, {"prompts": "prompts/cupl.json"}, "prompts for each class"),
        ("retrieval", "mean_recall@1", {}, {"folds": 5}, "nothing like settings.folds"),
        ("choice", "accuracy", {}, {"prompt": "a {c}"}, "nothing like settings.prompt"),
        ("retrieval", "mean_recall@1", {}, {"r_precision": True}, None),
        ("zero_shot", "acc1", {}, {"prompts": "prompts/imagenet1k.txt"}, None),
    ],
)
def test_what_clip_benchmark_does_not_do_is_said(referee, tmp_path, evaluator, metric, changes, settings, reason):
    task = task_on(tmp_path, evaluator, metric, **changes)
    task = type(task)(**{**vars(task), "settings": task.settings.model_copy(update=settings)})
    objection = referee.referees_for(tmp_path, None)[evaluator].objection(task)
    assert (reason is None) == (objection is None)
    assert reason is None or reason in objection


def test_a_task_without_a_referee_is_refused_by_name_and_listed_in_a_suite(referee, tmp_path, capsys, monkeypatch):
    referees = referee.referees_for(tmp_path, None)
    with pytest.raises(RecipeError, match="task 'geometry': no referee has the evaluator 'geometry'"):
        referee.judged(["geometry"], referees)
    suite = tmp_path / "mine.yaml"
    suite.write_text("tasks: [emoji24, geometry]\n")
    assert [task.name for task in referee.judged([str(suite)], referees)] == ["emoji24"]
    assert "not judged: geometry: no referee" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="task 'geometry': no referee has the evaluator 'geometry'"):
        referee.judged([str(suite), "geometry"], referees)


def test_every_shipped_suite_has_tasks_that_are_judged_as_the_referees_read_them(referee, tmp_path):
    referees = referee.referees_for(tmp_path, None)
    for suite in ("quick", "datacomp38", "clip-benchmark", "compositional", "retrieval", "imagenet-shifts"):
        tasks = referee.judged([suite], referees)
        assert tasks and all(task.data.pixels == "referee" for task in tasks if task.evaluator != "eccv_caption")
    (winoground,) = referee.judged(["winoground"], referees)
    assert winoground.settings.ties == "first" and load_task("winoground").settings.ties == "wrong"


def test_clip_benchmark_reads_the_shards_with_the_names_and_prompts_of_the_task(referee, tmp_path):
    clip_benchmark = importlib.import_module("referees.other_harness")
    root = write_classes(tmp_path / "classes")
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\n")
    task = task_on(root, "zero_shot", "acc1", class_names=str(names))
    data = SharedEncoder(HashEncoder()).open(task.data)
    clip_benchmark.lay_out(task, data, tmp_path / "laid/out")
    laid = tmp_path / "laid/out"
    assert (laid / "classnames.txt").read_text() == "a\nb\nc\n"
    assert (laid / "zeroshot_classification_templates.txt").read_text() == "a photo of a {c}.\na {c}\n"
    assert (laid / "test/nshards.txt").read_text() == "2\n" and (laid / "test/1.tar").is_file()
    choices = write_set(tmp_path / "choices", "choice", {"a": {"txt": b"right\nwrong"}})
    task = task_on(choices, "choice", "accuracy")
    clip_benchmark.lay_out(task, SharedEncoder(HashEncoder()).open(task.data), tmp_path / "choice")
    assert (tmp_path / "choice/dataset_type.txt").read_text() == "retrieval"  # so that it reads captions


def test_a_failed_referee_is_no_success(referee, tmp_path):
    clip_benchmark = importlib.import_module("referees.other_harness")
    task = task_on(write_classes(tmp_path / "classes"), "zero_shot", "acc1")
    with pytest.raises(RecipeError, match="CLIP_benchmark failed on classes"):
        clip_benchmark.ClipBenchmark(tmp_path, sys.executable).answer(task, SharedEncoder(HashEncoder()), {})


def test_scikit_learn_judges_probes_and_finds_a_wrong_one(referee, tmp_path, capsys, monkeypatch):
    labels = [number % 3 for number in range(90)]
    root = write_splits(tmp_path / "set", train=labels, test=labels[:30])
    tasks = [task_on(root, "linear_probe", "acc1"), task_on(root, "knn", "acc1_k5")]
    tasks[0] = type(tasks[0])(**{**vars(tasks[0]), "settings": tasks[0].settings.model_copy(update={"l2": 0.1})})
    tasks[1] = type(tasks[1])(**{**vars(tasks[1]), "settings": tasks[1].settings.model_copy(update={"k": (5, 20)})})
    referees = referee.referees_for(tmp_path, None)
    assert referee.compare(tmp_path, tasks, referees) == 0
    assert capsys.readouterr().out.count("acc1_k") == 2
    libraries = importlib.import_module("referees.libraries")
    real = libraries.read_features

    def other_classes(encoder, data, features):
        found = real(encoder, data, features)
        labels = found.labels.roll(1) if data.source.split == "train" else found.labels
        return type(found)(found.data, found.features, labels)

    monkeypatch.setattr(libraries, "read_features", other_classes)
    assert referee.compare(tmp_path, tasks, referees) == 1
