"""What probes learn from: clean images, opened and embedded once."""

from __future__ import annotations

from tests.evaluators.sets import HashEncoder
from tests.evaluators.splits import write_splits
from vlp.evaluators.base import Task
from vlp.evaluators.dataset import DataSource
from vlp.evaluators.probes.train_split import open_split
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.tasks import run_tasks


def test_a_probe_of_corrupted_images_learns_from_clean_ones(tmp_path):
    root = write_splits(tmp_path / "set", test=[0, 1] * 8, train=[0, 1] * 20)
    shared = SharedEncoder(HashEncoder())
    fog = {"kind": "fog", "severity": 3}
    tested = shared.open(DataSource(root=str(root), corruption=fog, classes_without_samples=None))
    learnt = open_split(shared, tested, "train", "train_split")
    assert tested.source.corruption == tested.corruption is not None
    assert learnt.source.corruption is learnt.corruption is None
    assert learnt.image(0).size != (224, 224) == tested.image(0).size


def test_clean_images_are_embedded_once_for_probes_of_several_corruptions(tmp_path):
    root = write_splits(tmp_path / "set", test=[0, 1] * 8, train=[0, 1] * 20)
    encoder = HashEncoder()
    data = {"root": str(root), "classes_without_samples": None}
    probe = {"version": 1, "evaluator": "knn", "main_metric": "acc1_k3", "settings": {"k": [3]}}
    tasks = [
        Task.from_mapping(kind, probe | {"data": data | {"corruption": {"kind": kind, "severity": 3}}}, "a test")
        for kind in ("fog", "snow", "contrast")
    ]
    records = run_tasks(tasks, encoder, model="m")
    assert [record.get("error") for record in records] == [None] * 3
    assert encoder.num_images == 40 + 3 * 16
