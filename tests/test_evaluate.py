"""`vlp eval` on an export and on a run, and the tasks that ship with the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.evaluators.sets import write_captions, write_classes
from tests.towers.tiny import tiny_export
from vlp.evaluate import evaluate_model, evaluate_models, find_tasks, score
from vlp.evaluators.base import TaskFile, evaluators, load_task
from vlp.evaluators.dataset import open_set
from vlp.evaluators.layout import read_lines
from vlp.evaluators.tasks import run_tasks
from vlp.evaluators.variants import families, read_task
from vlp.export.run import find_results
from vlp.ground.paths import folders
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe, lock_text
from vlp.recipe.model import build_model
from vlp.run.checkpoint import LOCK, save
from vlp.run.ready import check_ready
from vlp.run.subject import DEFAULT_TASKS, find_subject
from vlp.towers.encoder import TowerEncoder

EVAL = next(folders("eval"))
FAMILIES = list(families())
TASKS = [name for _, names in FAMILIES for name in names]
NEEDS_LOCAL_DATA = "${VLP_EVAL_ROOT}/"
NO_CHANCE = {"geometry", "diagnostics", "tolerance", "clustering", "joint_clustering"}
NO_CHANCE |= {"clipart-captioning", "mscoco_captioning"}  # measures that nobody guesses
NO_CHANCE |= {"refcoco", "refcocoplus", "refcocog"}  # boxes that nobody guesses
MADE_HERE = "canvases/"  # by a script of this package, where one works
NO_COUNT = {"winogavil"}  # how many images it has is published nowhere


@pytest.fixture
def export(tmp_path):
    """A model in open_clip's folder format."""
    return tiny_export(tmp_path / "export")


@pytest.fixture
def tasks(tmp_path):
    """Paths of two task files."""
    write_classes(tmp_path / "classes")
    write_captions(tmp_path / "captions")
    text = "version: 1\nevaluator: {}\nmain_metric: {}\ndata: {{root: {}}}\n"
    for name, evaluator, metric in (("classes", "zero_shot", "acc1"), ("captions", "retrieval", "mean_recall@1")):
        (tmp_path / f"{name}.yaml").write_text(text.format(evaluator, metric, tmp_path / name))
    return [str(tmp_path / "classes.yaml"), str(tmp_path / "captions.yaml")]


def test_there_are_tasks():
    assert len(FAMILIES) > 70
    assert len(TASKS) == len(set(TASKS)) > len(FAMILIES)
    assert set(DEFAULT_TASKS) <= set(TASKS)


@pytest.mark.parametrize("path, names", FAMILIES, ids=[path.stem for path, _ in FAMILIES])
def test_every_task_that_ships_says_what_it_is(path, names):
    assert names
    assert path.read_text().startswith("# ")
    for name in names:
        title, mapping, where = read_task(name)
        task = TaskFile.model_validate(mapping)
        assert (title, where) == (name, str(path))
        assert task.version >= 1
        assert task.source
        assert path.stem in NO_CHANCE or (task.random is not None and 0 < task.random < 1)
        assert name in NO_COUNT or task.data.samples
        assert task.evaluator != "zero_shot" or task.data.classes
        assert task.data.root.startswith((f"{NEEDS_LOCAL_DATA}wds_", MADE_HERE)) or task.data.sha256
        assert "{variant}" not in str(mapping)


# Languages differ in nothing that a schema could refuse: the first and the last of a file stand for them.
@pytest.mark.parametrize("name", sorted({name for _, names in FAMILIES for name in (names[0], names[-1])}))
def test_every_task_that_ships_loads(name):
    assert load_task(name).name == name


def test_no_two_tasks_are_the_same():
    told = {}
    for name in TASKS:
        _, mapping, _ = read_task(name)
        what = str([mapping["evaluator"], mapping["data"], mapping.get("settings", {})])
        assert told.setdefault(what, name) == name


def test_the_files_that_tasks_name_are_there_or_said_to_be_made():
    made = {"prompts/imagenet1k-cupl.json"}
    named = {
        file
        for name in TASKS
        for mapping in [read_task(name)[1]]
        for file in (mapping["data"].get("class_names"), mapping.get("settings", {}).get("prompts"))
        if file
    }
    assert len(named) > 10
    assert {file for file in named if not (EVAL / file).is_file()} == made
    for name in TASKS:
        data = read_task(name)[1]["data"]
        if "class_names" in data:
            assert len(read_lines(EVAL / data["class_names"])) == data["classes"], name


@pytest.mark.parametrize("name", DEFAULT_TASKS)
def test_the_shipped_sets_are_complete(name):
    task = load_task(name)
    data = open_set(task.data)
    assert len(data) == task.data.samples
    assert evaluators.build(task.evaluator, dict(task.settings), data).texts
    assert data.image(len(data) - 1).mode == "RGB"


@pytest.mark.parametrize("path", sorted(EVAL.rglob("*.txt")), ids=lambda path: path.name)
def test_prompt_and_class_files_have_no_blank_lines(path):
    lines = read_lines(path)
    assert all(("{c}" in line) == (path.parent.name == "prompts") for line in lines)


def test_an_export_is_evaluated_and_its_records_written(export, tasks, tmp_path, capsys):
    assert evaluate_model(str(export), tasks, tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert record["model"] == str(export)
    assert record["step"] is None
    assert record["preprocess"]["size"] in (32, [32, 32])
    assert "mean_recall@1" in capsys.readouterr().out


def test_a_failed_task_gives_an_exit_status_and_leaves_the_other_whole(export, tasks, tmp_path, capsys):
    (tmp_path / "classes" / "test" / "1.tar").unlink()
    assert evaluate_model(str(export), tasks) == 1
    printed = capsys.readouterr().out
    assert "mean_recall@1" in printed
    assert "classes FAILED" in printed
    assert not (tmp_path / "out").exists()


def test_a_run_keeps_its_evaluations(tmp_path, tasks, capsys):
    recipe = load_recipe("smoke", [f"runs={tmp_path}", "name=trial"])
    run = tmp_path / "trial"
    run.mkdir()
    (run / LOCK).write_text(lock_text(recipe))
    weights = build_model(recipe.model).state_dict()
    checkpoint = save(run, step=30, position=960, weights={recipe.evaluation.weights: weights}, training={}, keep=1)
    for name in (run, checkpoint.path):
        subject = find_subject(str(name))
        assert (subject.name, subject.step, subject.weights) == ("trial", 30, recipe.evaluation.weights)
        assert subject.folder == run / "evaluations" / "step_00000030"
    assert evaluate_model(str(run), tasks) == 0
    record = json.loads((run / "evaluations" / "step_00000030" / "classes.json").read_text())
    assert (record["model"], record["step"]) == ("trial", 30)

    # Training calls run_tasks with the model it holds: the same numbers come out.
    inside = run_tasks([load_task(tasks[0])], TowerEncoder(subject.model), model="trial", step=30)[0]
    assert inside["metrics"] == record["metrics"]
    assert inside["details"] == record["details"]


def test_other_weights_of_a_run_leave_the_records_of_those_that_it_evaluates(tmp_path, tasks):
    """Early stopping, reports and the cards of exports go by the latter."""
    recipe = load_recipe("smoke", [f"runs={tmp_path}", "name=trial"])
    run, own = tmp_path / "trial", recipe.evaluation.weights
    other = "raw"
    run.mkdir()
    (run / LOCK).write_text(lock_text(recipe))
    weights = {label: build_model(recipe.model).state_dict() for label in (own, other)}
    save(run, step=30, position=960, weights=weights, training={}, keep=1)
    folder = run / "evaluations" / "step_00000030"
    assert evaluate_model(str(run), tasks) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert evaluate_model(f"{run}:{other}", tasks) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert json.loads((folder / f"weights_{other}" / "classes.json").read_text())["weights"] == other
    assert find_subject(f"{run}:{own}").folder == folder
    found = {label: find_results(run, 30, label) for label in (own, other)}
    assert {label: {each["weights"] for each in records} for label, records in found.items()} == {
        own: {own},
        other: {other},
    }
    assert [len(records) for records in found.values()] == [2, 2]


@pytest.mark.parametrize("name", ["nowhere", "ViT-B-32"])
def test_a_model_that_cannot_be_loaded_is_an_error(name):
    with pytest.raises(RecipeError, match=name):
        evaluate_model(name, ["emoji24"])


def test_two_tasks_of_one_name_are_refused_before_one_stands_for_both(export, tasks, tmp_path):
    other = tmp_path / "other" / "classes.yaml"
    other.parent.mkdir()
    other.write_text(Path(tasks[0]).read_text())
    assert [task.name for task in find_tasks([tasks[0], str(other)])[0]] == ["classes"] * 2  # the same, in two places
    other.write_text(other.read_text().replace("acc1", "macro_f1"))
    with pytest.raises(RecipeError, match="two tasks are called 'classes'"):
        evaluate_model(str(export), [tasks[0], str(other)])
    with pytest.raises(RecipeError, match="two tasks are called 'classes'"):
        score(TowerEncoder(find_subject(str(export)).model), [tasks[0], str(other)])
    recipe = load_recipe("smoke", [f"runs={tmp_path}", f"evaluation.tasks=[{tasks[0]}, {other}]"])
    with pytest.raises(RecipeError, match=r"evaluation\.tasks: .*two tasks are called 'classes'"):
        check_ready(recipe)


def test_an_unknown_task_is_an_error_with_a_neighbour(export):
    with pytest.raises(RecipeError, match=r"emoji42.*emoji24"):
        evaluate_model(str(export), ["emoji42"])


@pytest.fixture
def suite(tmp_path, tasks, monkeypatch):
    """A suite of the two tasks, under the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eval" / "suites").mkdir(parents=True)
    for path in tasks:
        Path(path).rename(tmp_path / "eval" / Path(path).name)
    (tmp_path / "eval" / "suites" / "mine.yaml").write_text("# Both.\ntasks: [classes, captions]\n")
    return "mine"


def test_a_suite_stands_for_its_tasks(suite):
    found, suites = find_tasks(["captions", suite])
    assert [task.name for task in found] == ["captions", "classes"]
    assert [each.name for each in suites] == [suite]
    assert find_tasks(["eval/suites/mine.yaml"])[1][0].name == suite
    with pytest.raises(RecipeError, match="nowhere"):
        find_tasks(["nowhere"])


def test_a_suite_ends_with_its_mean(export, suite, tmp_path, capsys):
    table = tmp_path / "table.json"
    assert evaluate_models([str(export)], [suite], tmp_path / "out", table_file=table) == 0
    rows = {row["task"]: row["value"] for row in json.loads(table.read_text())}
    assert rows["mine: average"] == pytest.approx((rows["classes"] + rows["captions"]) / 2)
    assert "mine: average" in capsys.readouterr().out


def test_a_start_takes_what_an_earlier_one_finished(export, suite, tmp_path, capsys):
    assert evaluate_models([str(export)], [suite], tmp_path / "out") == 0
    (tmp_path / "out" / "captions.json").unlink()
    kept = (tmp_path / "out" / "classes.json").stat().st_mtime_ns
    assert evaluate_models([str(export)], [suite], tmp_path / "out", resume=True) == 0
    assert "1 of 2 tasks are done" in capsys.readouterr().err
    assert (tmp_path / "out" / "classes.json").stat().st_mtime_ns == kept
    assert (tmp_path / "out" / "captions.json").exists()
    with pytest.raises(RecipeError, match="--resume: there is no folder"):
        evaluate_models([str(export)], [suite], resume=True)


def test_several_models_have_folders_of_their_own_and_one_table(export, suite, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(export, other)
    assert evaluate_models([str(export), str(other)], [suite], tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("*/classes.json"))) == 2
    printed = capsys.readouterr().out
    assert printed.count("mine: average") == 2
    assert str(other) in printed


def test_no_model_writes_over_the_records_of_another(tmp_path, tasks):
    with pytest.raises(RecipeError, match=r"'runs/a' and 'runs_a' would both go to .*runs_a"):
        evaluate_models(["runs/a", "runs_a"], tasks, tmp_path / "out")


def test_a_table_that_nobody_can_write_is_refused_before_the_work(export, suite, tmp_path):
    with pytest.raises(RecipeError, match="end it with one of"):
        evaluate_models(["nothing of the kind"], [suite], table_file=tmp_path / "table.xlsx")
