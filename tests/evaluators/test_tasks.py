"""Tasks: mistakes are named, failures stay alone, records are strict JSON."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import replace

import pytest

from tests.evaluators.sets import HashEncoder, task_on, write_captions, write_classes
from tests.shards import write_tar
from vlp.evaluators.base import Task, evaluators
from vlp.evaluators.earlier_records import finished
from vlp.evaluators.record import flatten, headline, table, to_json
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.tasks import by_set, run_task, run_tasks
from vlp.ground.registry import settings_of
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


ODD = {"seed": (-1, 2**32), "max_pairs": (0, -1), "recall_at": ([0], [1, -5])}


def test_numbers_that_mean_nothing_are_refused_by_every_evaluator():
    tried = set()
    for name in evaluators:
        for key in ODD.keys() & settings_of(evaluators[name]).model_fields.keys():
            for value in ODD[key]:
                mapping = {"version": 1, "evaluator": name, "main_metric": "m", "data": {"root": "x"}}
                with pytest.raises(RecipeError, match=f"settings: {key}.*input should be"):
                    Task.from_mapping("t", mapping | {"settings": {key: value}}, "t.yaml")
            tried.add(key)
    assert tried == ODD.keys()


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
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["retrieval.json", "zero_shot.json"]

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


def test_tasks_on_one_set_follow_each_other_and_records_keep_the_order(tmp_path):
    captions, classes = write_captions(tmp_path / "captions"), write_classes(tmp_path / "classes")
    first, other, last = (
        task_on(captions, "retrieval", "mean_recall@1"),
        task_on(classes, "zero_shot", "acc1"),
        replace(task_on(captions, "geometry", "auc"), name="shape"),
    )
    assert [task.name for task in by_set([first, other, last])] == ["captions", "shape", "classes"]
    records = run_tasks([first, other, last], HashEncoder(), model="m")
    assert [record["task"] for record in records] == ["captions", "classes", "shape"]


def test_embeddings_that_no_later_task_needs_are_forgotten(tmp_path):
    one, other = (task_on(write_captions(tmp_path / name), "geometry", "auc") for name in ("one", "other"))
    encoder = HashEncoder()
    shared = SharedEncoder(encoder)
    for task in (one, other, one, other):
        run_task(task, shared, model="m")
    assert encoder.num_images == 80  # each set once
    shared.keep_sets([other.data.model_copy(update={"samples": 40})])
    for task in (other, one):
        run_task(task, shared, model="m")
    assert encoder.num_images == 120  # what was forgotten, and not what another task on the set needs


def test_a_task_that_is_done_is_not_run_again(tmp_path):
    tasks = [make_task("zero_shot", tmp_path), make_task("retrieval", tmp_path)]
    folder = tmp_path / "out"
    before = run_tasks(tasks, HashEncoder(), model="m", model_checksum=7.0, folder=folder)
    (folder / "retrieval.json").unlink()
    done = finished(tasks, folder, 7.0)
    assert list(done) == ["zero_shot"]
    encoder = HashEncoder()
    after = run_tasks(tasks, encoder, model="m", model_checksum=7.0, folder=folder, done=done)
    assert encoder.num_images == 40  # of the retrieval set alone
    assert [record["metrics"] for record in after] == [record["metrics"] for record in before]


def test_what_another_task_or_another_model_left_is_not_taken(tmp_path):
    task = make_task("retrieval", tmp_path)
    folder = tmp_path / "out"
    run_tasks([task], HashEncoder(), model="m", model_checksum=7.0, folder=folder)
    assert finished([task], folder, 7.0)
    assert not finished([task], folder, 8.0)
    assert not finished([replace(task, version=2)], folder, 7.0)
    assert not finished([replace(task, data=task.data.model_copy(update={"pixels": "referee"}))], folder, 7.0)
    (folder / "retrieval.json").write_text('{"error": "no room"}')
    assert not finished([task], folder, 7.0)
    (folder / "retrieval.json").write_text('{"torn')
    assert not finished([task], folder, 7.0)


def test_a_record_of_other_prompts_is_not_taken(tmp_path, monkeypatch):
    """Those of a file, and those of the set: the task that names them is the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("a photo of a {c}\n")
    plain = make_task("zero_shot", tmp_path)
    named = replace(plain, settings=plain.settings.model_copy(update={"prompts": "mine.txt"}), name="named")
    run_tasks([plain, named], HashEncoder(), model="m", model_checksum=7.0, folder=tmp_path / "out")
    assert finished([plain, named], tmp_path / "out", 7.0).keys() == {plain.name, "named"}
    (tmp_path / "mine.txt").write_text("a picture of a {c}\n")
    assert finished([plain, named], tmp_path / "out", 7.0).keys() == {plain.name}
    (tmp_path / "zero_shot" / "zeroshot_classification_templates.txt").write_text("the {c}\n")
    assert not finished([plain, named], tmp_path / "out", 7.0)


def test_a_record_of_other_shards_is_not_taken(tmp_path):
    """Those of the split that is tested, and those of one that a probe learns from: the task is the same."""
    task = make_task("zero_shot", tmp_path)
    run_tasks([task], HashEncoder(), model="m", model_checksum=7.0, folder=tmp_path / "out")
    assert finished([task], tmp_path / "out", 7.0)
    shard = tmp_path / "zero_shot" / "test" / "0.tar"
    status = shard.stat()
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not finished([task], tmp_path / "out", 7.0)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert finished([task], tmp_path / "out", 7.0)
    write_tar(tmp_path / "zero_shot" / "train" / "0.tar", [])
    assert not finished([task], tmp_path / "out", 7.0)
    shutil.rmtree(tmp_path / "zero_shot")
    assert finished([task], tmp_path / "out", 7.0)  # what is gone cannot be scored anew


def test_a_record_of_weights_used_otherwise_or_without_its_table_is_not_taken(tmp_path):
    task, out = make_task("zero_shot", tmp_path), tmp_path / "out"
    run_tasks([task], HashEncoder(), model="m", model_checksum=7.0, configuration="a", folder=out)
    assert finished([task], out, 7.0, "a") and not finished([task], out, 7.0, "b")
    record = json.loads((out / "zero_shot.json").read_text())
    (out / "zero_shot.json").write_text(json.dumps(record | {"unwritten": "zero_shot.samples.npz: no room"}))
    assert not finished([task], out, 7.0, "a")
    del record["configuration"], record["shards"]
    (out / "zero_shot.json").write_text(json.dumps(record))
    assert finished([task], out, 7.0, "b")  # an older one says nothing of either


def test_a_line_per_task_says_how_far_it_has_come(tmp_path, capsys):
    tasks = [make_task("zero_shot", tmp_path), make_task("retrieval", tmp_path)]
    run_tasks(tasks, HashEncoder(), model="m", progress=True)
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "/2" in line and ": " in line]
    assert re.fullmatch(
        r"1/2, about \d+ s left: zero_shot acc1 0\.\d{4}", next(li for li in lines if li.startswith("1/2"))
    )
    assert any(line.startswith("2/2: retrieval mean_recall@1 0.") for line in lines)
