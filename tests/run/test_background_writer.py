"""A checkpoint that is written while training goes on holds the state of its own step, whole or not at all."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import run_processes
from tests.run.test_checkpoint_run import FULL_DISK, fail_at, losses, steps
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.ground.types import VlpWarning
from vlp.run import checkpoint
from vlp.run.background_writer import BackgroundWriter, copied
from vlp.run.checkpoint import candidates, latest, open_checkpoint
from vlp.train import train

OFTEN = ("checkpoint.every=2", "checkpoint.keep=5", "objective.sogclr={}", "model.learn_scale=false")
BEHIND = "checkpoint.background=true"


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    return f"{tmp_path}/shards/*.tar"


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class HeldBack:
    """Writes a checkpoint once a step was taken behind it."""

    def __init__(self, run: Path):
        self.metrics, self.write, self.taken = run / "metrics.jsonl", checkpoint.save, []

    def __call__(self, *args, **kwargs):
        if kwargs["step"] < 6:
            for _ in range(600):
                if self.behind(kwargs["step"]):
                    break
                threading.Event().wait(0.05)
            self.taken.append(self.behind(kwargs["step"]))
        return self.write(*args, **kwargs)

    def behind(self, step: int) -> int:
        """Return how many steps were taken since."""
        return self.metrics.read_text().count("\n") - step


def test_it_holds_its_own_step_whatever_was_computed_meanwhile(tmp_path, shards, monkeypatch):
    expected = train(tiny_recipe(tmp_path, shards, "name=whole", *OFTEN))
    recipe = tiny_recipe(tmp_path, shards, BEHIND, *OFTEN)
    held_back = HeldBack(recipe.folder)
    monkeypatch.setattr(checkpoint, "save", held_back)
    run = train(recipe)
    assert losses(run) == losses(expected)
    for ours, theirs in zip(candidates(run), candidates(expected), strict=True):
        ours, theirs = open_checkpoint(ours), open_checkpoint(theirs)
        assert same(
            [ours.weights(label) for label in ours.labels()], [theirs.weights(label) for label in ours.labels()]
        )
        assert same(ours.training(), theirs.training())
    assert steps(run) == ["step_00000002", "step_00000004", "step_00000006"]
    assert all(taken > 0 for taken in held_back.taken)  # the run did not wait


def test_a_failure_is_said_and_the_run_goes_on(tmp_path, shards, monkeypatch):
    monkeypatch.setattr(checkpoint, "save_file", fail_at(2, FULL_DISK))
    with pytest.warns(VlpWarning, match="no checkpoint at step 2: SafetensorError: .*No space left"):
        run = train(tiny_recipe(tmp_path, shards, BEHIND, *OFTEN))
    assert steps(run) == ["step_00000004", "step_00000006"]


def test_a_last_one_that_failed_is_written_again(tmp_path, shards, monkeypatch):
    write, failed = checkpoint.save_file, []

    def fail_once(weights, path):
        if "step_00000006" in str(path) and not failed:
            failed.append(path)
            raise FULL_DISK
        write(weights, path)

    monkeypatch.setattr(checkpoint, "save_file", fail_once)
    with pytest.warns(VlpWarning, match="no checkpoint at step 6"):
        run = train(tiny_recipe(tmp_path, shards, BEHIND, *OFTEN))
    assert latest(run).step == 6


def test_it_is_waited_for_when_the_run_breaks_off(tmp_path, shards, monkeypatch):
    recipe = tiny_recipe(tmp_path, shards, BEHIND, "checkpoint.every=3")
    started, write = threading.Event(), checkpoint.save

    def slowly(*args, **kwargs):
        started.set()
        threading.Event().wait(0.5)
        return write(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save", slowly)
    monkeypatch.setattr("vlp.train.write_metrics", lambda *_: started.is_set() and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(recipe)
    assert latest(recipe.folder).step == 3


def test_copies_are_of_the_cpu_and_no_views():
    live = {"a": torch.ones(2), "b": [torch.zeros(1), 3, None], "c": {"d": torch.ones(1, requires_grad=True)}}
    found = copied(live)
    with torch.no_grad():
        for tensor in (live["a"], live["b"][0], live["c"]["d"]):
            tensor += 1
    assert found["a"].tolist() == [1, 1]
    assert found["b"] == [torch.zeros(1), 3, None]
    assert found["c"]["d"].tolist() == [1]
    assert not found["c"]["d"].requires_grad


def test_one_thing_after_the_other():
    order = []
    with BackgroundWriter() as writer:
        for number in range(3):
            writer.start(lambda number=number: order.append(number), otherwise="nothing")
    assert order == [0, 1, 2]


def _with_trouble_on_the_first(rank, world_size, folder, shards):
    recipe = tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs", BEHIND, *OFTEN)
    pytest.MonkeyPatch().setattr(checkpoint, "save_file", fail_at(2, FULL_DISK))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = train(recipe)
    return losses(run), sum("no checkpoint at step 2" in str(each.message) for each in said)


@pytest.mark.processes
def test_two_processes_go_on_too(tmp_path, shards):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    (one, said), (other, said_too) = run_processes(_with_trouble_on_the_first, 2, str(tmp_path), shards, timeout=120)
    assert one == other
    assert (said, said_too) == (1, 0)
    assert steps(tmp_path / "runs" / "tiny") == ["step_00000004", "step_00000006"]
