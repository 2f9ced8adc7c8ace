"""`vlp robust` on an export, on a run, on ONNX files: record, table, resume and exit status."""

from __future__ import annotations

import csv
import json

import pytest

from tests.evaluators.sets import write_captions, write_classes
from tests.tiny import tiny_recipe
from tests.towers.tiny import tiny_export, tiny_model
from vlp.ground.types import RecipeError
from vlp.recipe.compose import lock_text
from vlp.recipe.model import build_model
from vlp.robust.attack_model import attack_model
from vlp.robust.gates import GATES, Gate
from vlp.run.checkpoint import LOCK, save
from vlp.run.folder import robust_records
from vlp.run.subject import find_subject

ATTACKS = """
version: 1
radii: [2, 16]
samples: 6
batch_size: 4
attacks:
  pgd: {steps: 2}
  one_word: {candidates: 2}
"""


@pytest.fixture
def export(tmp_path):
    return str(tiny_export(tmp_path / "export"))


@pytest.fixture
def attacks(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(ATTACKS)
    return str(path)


@pytest.fixture
def tasks(tmp_path):
    """Paths of task files: a classification, a search, and a classification of corrupted images."""
    write_classes(tmp_path / "classes", [0, 1, 2] * 4)
    write_captions(tmp_path / "captions")
    text = "version: 1\nevaluator: {}\nmain_metric: {}\ndata: {{root: {}{}}}\n"
    noise = ", corruption: {kind: gaussian_noise, severity: 1}"
    for name, root, evaluator, metric, more in (
        ("classes", "classes", "zero_shot", "acc1", ""),
        ("captions", "captions", "retrieval", "mean_recall@1", ""),
        ("noisy", "classes", "zero_shot", "acc1", noise),
    ):
        (tmp_path / f"{name}.yaml").write_text(text.format(evaluator, metric, tmp_path / root, more))
    return [str(tmp_path / f"{name}.yaml") for name in ("classes", "captions", "noisy")]


def read(folder):
    return json.loads((folder / "robust.json").read_text())


@pytest.fixture
def believing(monkeypatch):
    """Let every gate pass: an untrained model may be better under attack than without."""
    monkeypatch.setattr("vlp.robust.task_record.judge", lambda _evidence: [Gate("any", True, "")])


def test_one_record_and_one_table_of_everything(export, attacks, tasks, tmp_path, capsys, believing):
    to = tmp_path / "out"
    assert attack_model(export, tasks, attacks, to, table_file=to / "t.csv") == 0
    record = read(to)
    assert (record["model"], record["attacks"], record["attack_file"]["radii"]) == (export, "mine", [2, 16])
    assert [task["task"] for task in record["tasks"]] == ["classes", "captions", "noisy"]
    classes, captions, noisy = record["tasks"]
    assert (classes["samples"], classes["of"]) == (6, 12)
    assert {each["label"] for each in classes["attacks"]} == {"pgd", "random_signs"}
    assert {each["label"] for each in captions["attacks"]} == {"pgd", "random_signs", "one_word"}
    assert [each["radius"] for each in classes["worst"]] == [2, 16]
    assert "attacks" not in noisy and noisy["metrics"]["acc1"]["count"] == 12
    printed = capsys.readouterr()
    assert "worst case" in printed.out and "noisy" in printed.out and "as it is" in printed.out
    assert "1/13" in printed.err and "about" in printed.err
    rows = list(csv.DictReader((to / "t.csv").open()))
    numbers = [row for row in rows if (row["task"], row["attack"], row["metric"]) == ("classes", "pgd", "acc1")]
    values = [each["metrics"]["acc1"]["value"] for each in classes["attacks"] if not each["is_probe"]]
    assert [float(row["value"]) for row in numbers] == values


def test_pictures_and_diagnostics_are_in_the_record(export, attacks, tasks, tmp_path, believing):
    attack_model(export, tasks[:1], attacks, tmp_path / "out")
    (task,) = read(tmp_path / "out")["tasks"]
    assert (task["pictures"]["attack"], task["pictures"]["radius"]) == ("pgd", 16)
    for sample in task["pictures"]["samples"]:
        assert {"clean", "change", "attacked", "before", "after", "right", "key"} == set(sample)
        assert sample["before"][0] in sample["right"]  # those are drawn that were right
    found = task["diagnostics"]
    assert len(found["cka_by_block"]) == len(found["cka_between_blocks"]["clean"]) == 2
    assert found["cka_between_blocks"]["clean"][0][0] == pytest.approx(1)
    assert set(found["geometry"]) == {"modality_gap", "alignment", "uniformity_image"}
    assert found["cka_of_embeddings"]["value"] < 1


def test_what_is_done_is_not_done_again(export, attacks, tasks, tmp_path, believing, monkeypatch):
    to = tmp_path / "out"
    attack_model(export, tasks, attacks, to)
    first = read(to)
    monkeypatch.setattr("vlp.robust.stage.Stage.change_images", None)
    attack_model(export, tasks, attacks, to, resume=True)
    second = read(to)
    for record in (first, second):
        for name in ("date", "seconds"):
            del record[name]
    assert second == first
    with pytest.raises(RecipeError, match="no folder"):
        attack_model(export, tasks, attacks, resume=True)


def test_a_gate_that_fails_fails_the_command(export, attacks, tasks, tmp_path, capsys, monkeypatch):
    said = [Gate("beats_chance", False, "worse than nothing")]
    monkeypatch.setattr("vlp.robust.task_record.judge", lambda _evidence: said)
    assert attack_model(export, tasks[:1], attacks, tmp_path / "out", table_file=tmp_path / "t.md") == 1
    assert read(tmp_path / "out")["is_believable"] is False
    for text in (capsys.readouterr().out, (tmp_path / "t.md").read_text()):
        assert "gate beats_chance FAILED: worse than nothing" in text
        assert "say nothing about robustness" in text


def test_a_task_that_fails_leaves_the_others_whole(export, attacks, tasks, tmp_path, capsys, believing):
    (tmp_path / "captions" / "test" / "0.tar").write_bytes(b"")
    assert attack_model(export, tasks, attacks, tmp_path / "out", table_file=tmp_path / "t.json") == 1
    errors = ["error" in task for task in read(tmp_path / "out")["tasks"]]
    assert errors == [False, True, False]
    assert "captions FAILED" in capsys.readouterr().out
    assert json.loads((tmp_path / "t.json").read_text())["rows"]


def test_a_run_keeps_its_record_and_its_own_tasks(tmp_path, attacks, tasks, believing):
    recipe = tiny_recipe(tmp_path, "none.tar", f"evaluation.tasks={tasks}")
    run = recipe.folder
    run.mkdir(parents=True)
    (run / LOCK).write_text(lock_text(recipe))
    weights = build_model(recipe.model).state_dict()
    save(run, step=6, position=48, weights={recipe.evaluation.weights: weights}, training={}, keep=1)
    assert find_subject(str(run)).tasks == tuple(tasks)
    assert attack_model(str(run), None, attacks) == 0
    (path,) = robust_records(run)
    assert path == run / "evaluations" / "step_00000006" / "robust" / "robust.json"
    record = json.loads(path.read_text())
    assert record["step"] == 6
    assert [task["task"] for task in record["tasks"]] == ["classes", "captions"]  # noisy can only be evaluated


def test_a_model_without_gradients_is_attacked_without(tmp_path, attacks, tasks, believing):
    pytest.importorskip("onnxruntime", reason="pip install 'vlp[onnx]' to attack pairs of ONNX files")
    pytest.importorskip("onnxscript", reason="torch.onnx needs onnxscript")
    from tests.towers.test_onnx_pair import export as export_onnx

    folder = str(export_onnx(tiny_model().eval(), tmp_path / "pair"))
    with pytest.raises(RecipeError, match=r"gives no gradients, which attacks\.pgd needs"):
        attack_model(folder, tasks[:1], attacks)
    (tmp_path / "blind.yaml").write_text(
        "version: 1\nradii: [8]\nsamples: 6\nattacks: {square: {queries: 3}, one_word: {candidates: 2}}"
    )
    assert attack_model(folder, tasks[:2], str(tmp_path / "blind.yaml"), tmp_path / "out") == 0
    assert read(tmp_path / "out")["tasks"][1]["attacks"]


def test_wrong_names_are_found_before_the_work(export, attacks, tasks, tmp_path):
    with pytest.raises(RecipeError, match="end it with one of"):
        attack_model(export, tasks, attacks, table_file=tmp_path / "table.txt")
    with pytest.raises(RecipeError, match="there is no file 'nosuch'"):
        attack_model(export, tasks, "nosuch")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be made"):
        attack_model(export, tasks, attacks, tmp_path / "file" / "out")


def test_gates_have_documentation():
    assert all(gate.__doc__ for gate in GATES)
