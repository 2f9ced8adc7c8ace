"""What is chosen by one half of a set has never seen the other, whichever task reads it."""

from __future__ import annotations

import ast
import json

import numpy as np
import pytest

from tests.evaluators.sets import HashEncoder, opened, task_on, write_captions, write_classes
from tests.evaluators.splits import write_splits
from tests.house import FILES
from vlp.evaluators.base import Task, evaluators, load_task
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.halves import Half, part_of
from vlp.evaluators.per_sample import read_samples
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.tasks import run_task, run_tasks, task_sha256
from vlp.ground.types import RecipeError

LABELS = [0, 1, 2] * 14


def halves_of(root, **settings):
    return [
        open_set(DataSource(root=str(root), half=Half(part=part), **settings)) for part in ("choosing", "reporting")
    ]


def test_each_sample_is_in_one_half(tmp_path):
    whole = opened(write_classes(tmp_path / "set", LABELS))
    halves = halves_of(tmp_path / "set", samples=42, classes=3)
    keys = [[sample.key for sample in half.samples] for half in halves]
    assert sorted(keys[0] + keys[1]) == sorted(sample.key for sample in whole.samples)
    assert min(map(len, keys)) > 14
    labels = {sample.key: label for sample, label in zip(whole.samples, whole.labels, strict=True)}
    for half in halves:
        assert [labels[sample.key] for sample in half.samples] == list(half.labels)
    assert len({whole.fingerprint, *(half.fingerprint for half in halves)}) == 3


def test_the_half_depends_on_the_key_alone():
    found = [part_of(f"s{number:07d}") == "choosing" for number in range(8)]
    assert found == [True, True, True, False, False, False, False, True]  # for ever: records refer to it
    shares = np.mean([part_of(f"{number:09d}") == "choosing" for number in range(4000)])
    assert shares == pytest.approx(0.5, abs=0.03)  # four standard deviations


def test_pictures_that_two_shipped_sets_share_fall_into_the_same_half():
    emoji, names = (
        {sample.key for sample in open_set(load_task(task).half("choosing").data).samples}
        for task in ("emoji24", "emoji-retrieval")
    )
    reported = {sample.key for sample in open_set(load_task("emoji-retrieval").half("reporting").data).samples}
    assert emoji & names and not emoji & reported


def test_a_record_of_a_half_counts_its_samples_and_both_make_the_whole(tmp_path):
    task = task_on(write_classes(tmp_path / "set", LABELS), "zero_shot", "acc1", samples=42)
    hits, sizes = [], []
    for each in (task.half("choosing"), task.half("reporting"), task):
        (record,) = run_tasks([each], HashEncoder(), model="m", folder=tmp_path / f"{each.data.half}")
        metric = record["metrics"]["acc1"]
        hits.append(metric["value"] * metric["count"])
        sizes.append(metric["count"])
        assert read_samples(tmp_path / f"{each.data.half}" / "set")["acc1"].metric == pytest.approx(metric["value"])
        assert metric["low"] < metric["value"] < metric["high"]
    assert sizes[0] + sizes[1] == sizes[2] == 42
    assert hits[0] + hits[1] == pytest.approx(hits[2])


def test_one_encoder_keeps_the_halves_apart(tmp_path):
    task = task_on(write_classes(tmp_path / "set", LABELS), "zero_shot", "acc1")
    encoder = HashEncoder()
    shared = SharedEncoder(encoder)
    records = [run_task(each, shared, model="m") for each in (task.half("choosing"), task.half("reporting"), task)]
    assert encoder.num_images == 84
    assert len({record["data_sha256"] for record in records}) == 3


def test_a_search_finds_among_its_half_alone(tmp_path):
    task = task_on(write_captions(tmp_path / "set"), "retrieval", "mean_recall@1").half("choosing")
    (record,) = run_tasks([task], HashEncoder(), model="m")
    keys = [f"s{number:07d}" for number in range(40)]
    assert record["details"]["images"] == sum(part_of(key) == "choosing" for key in keys)


def test_a_probe_learns_from_the_whole_training_split(tmp_path):
    root = write_splits(tmp_path / "set", test=[0, 1] * 16, train=[0, 1] * 20)
    data = {"root": str(root), "classes_without_samples": None}
    mapping = {"version": 1, "evaluator": "knn", "main_metric": "acc1_k3", "settings": {"k": [3]}, "data": data}
    task = Task.from_mapping("probe", mapping, "a test").half("choosing")
    shared = SharedEncoder(HashEncoder())
    (record,) = run_tasks([task], shared.encoder, model="m")
    assert record["metrics"]["acc1_k3"]["count"] == len(shared.open(task.data)) < 32
    assert "40" in json.dumps(record["details"])


def test_samples_that_are_judged_together_stay_together():
    for number in range(40):
        assert part_of(f"pair{number}_0", of_instances=True) == part_of(f"pair{number}_1", of_instances=True)
    assert load_task("winoground").half("choosing").data.half == Half(part="choosing", of_instances=True)
    readers = {
        path.stem
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "vlp.evaluators.instances"
        if any(alias.name == "runs_of" for alias in node.names)
    }
    together = {name for name in evaluators if getattr(evaluators[name], "judges_instances", False)}
    assert readers == together


def test_a_half_without_samples_is_refused(tmp_path):
    root = write_classes(tmp_path / "set", labels=(0,), num_shards=1)
    with pytest.raises(RecipeError, match="none of its 1 samples falls into the reporting half"):
        halves_of(root, classes_without_samples=None)


def test_whole_tasks_keep_the_checksum_that_records_have():
    task = load_task("emoji24")
    assert "half" in task.data.model_dump()
    assert task_sha256(task) == "a813b948ccf94150e9030301bc5fb8d47022918c31c3ac7d040791640fcde9cf"
    assert len({task_sha256(each) for each in (task, task.half("choosing"), task.half("reporting"))}) == 3
