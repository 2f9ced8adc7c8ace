"""One and three processes: the same bits, and no process is left waiting. Few starts, as each costs seconds."""

from __future__ import annotations

import pytest
import torch

from tests.evaluators.every_task import every_task, write_every_set
from tests.evaluators.sets import HashEncoder, task_on, write_classes
from tests.processes import run_processes
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


def run_all(rank, world_size, folder):
    records = run_tasks(every_task(folder), HashEncoder(), model="m")
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
    write_every_set(folder)
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


def test_several_processes_write_the_same_bits_as_one_and_fail_together(folder, alone):
    for results, (lacking, failing) in run_processes(run_all_and_fail, 3, folder, timeout=400):
        assert results == alone
        assert "1.tar is missing" in lacking
        assert "out of memory" in failing
