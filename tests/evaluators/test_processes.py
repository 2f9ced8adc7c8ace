"""One, two and three processes: the same bits, and no process is left waiting. Few starts, as each costs seconds."""

from __future__ import annotations

import pytest
import torch

from tests.evaluators.kinds import vector, write_set
from tests.evaluators.sets import HashEncoder, task_on, write_captions, write_classes
from tests.evaluators.splits import write_splits
from tests.processes import run_processes
from vlp.evaluators.base import Task
from vlp.evaluators.record import to_json
from vlp.evaluators.tasks import run_tasks

pytestmark = pytest.mark.processes


class FailsOnSecondProcess(HashEncoder):
    """Runs out of memory on one process."""

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def embed_images(self, images):
        if self.rank == 1:
            raise RuntimeError("out of memory")
        return super().embed_images(images)


def probe_on(root, evaluator, main_metric, **settings):
    mapping = {"version": 1, "evaluator": evaluator, "main_metric": main_metric, "data": {"root": str(root)}}
    return Task.from_mapping(evaluator, mapping | {"settings": settings}, "a test")


def run_all(rank, world_size, folder):
    tasks = [
        task_on(folder / "classes", "zero_shot", "acc1"),
        task_on(folder / "captions", "retrieval", "mean_recall@1"),
        task_on(folder / "captions", "geometry", "auc"),
        task_on(folder / "several", "multilabel", "map"),
        task_on(folder / "choices", "choice", "accuracy"),
        task_on(folder / "choices", "winoground", "group_score"),
        task_on(folder / "cues", "association", "jaccard"),
        probe_on(folder / "splits", "linear_probe", "acc1"),
        probe_on(folder / "splits", "knn", "acc1_k3", k=[3, 10]),
        probe_on(folder / "splits", "few_shot", "linear_acc1_2shot", shots=[1, 2], draws=2),
        probe_on(folder / "splits", "clustering", "nmi"),
        probe_on(folder / "classes", "joint_clustering", "joint_nmi"),
        probe_on(folder / "edits", "arithmetic", "acc1"),
    ]
    records = run_tasks(tasks, HashEncoder(), model="m")
    return [to_json(record | {"seconds": 0, "date": ""}) for record in records]


def run_all_and_fail(rank, world_size, folder):
    results = run_all(rank, world_size, folder)
    lacking = task_on(folder / f"lacking{min(rank, 1)}", "zero_shot", "acc1")
    failing = task_on(folder / "captions", "retrieval", "mean_recall@1")
    errors = [record["error"] for record in run_tasks([lacking, failing], FailsOnSecondProcess(rank), model="m")]
    return results, errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_classes(folder / "classes", labels=[i % 3 for i in range(50)])
    write_captions(folder / "captions")
    several = {f"s{i}": {"npy": vector(i % 2, i % 3 == 0, 1)} for i in range(40)}
    write_set(folder / "several", "multilabel", several, ["red cat", "green dog", "blue bird"])
    choices = {
        f"s{i // 2}_{i % 2}": {"txt": f"word{i} of word{i ^ 1}\nword{i ^ 1} of word{i}".encode()} for i in range(40)
    }
    write_set(folder / "choices", "choice", choices)
    cues = {f"s{i // 5}_{i % 5}": {"txt": f"cue{i // 5}".encode(), "cls": str(i % 5 // 3).encode()} for i in range(40)}
    write_set(folder / "cues", "association", cues)
    write_splits(folder / "splits", train=[i % 3 for i in range(60)], test=[i % 3 for i in range(40)])
    edits = {f"s{i}": {"txt": f"word{i % 4}\nword{(i + 1) % 4}".encode()} for i in range(40)}
    write_set(folder / "edits", "choice", edits)
    for rank in range(2):
        write_classes(folder / f"lacking{rank}")
    (folder / "lacking1" / "test" / "1.tar").unlink()
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = run_all(0, 1, folder)
    torch.set_num_threads(threads)
    assert not any('"error"' in result for result in results)
    return results


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_write_the_same_bits_as_one_and_fail_together(folder, alone, world_size):
    for results, (lacking, failing) in run_processes(run_all_and_fail, world_size, folder, timeout=400):
        assert results == alone
        assert "1.tar is missing" in lacking
        assert "out of memory" in failing
