"""A batch that holds samples twice: refused where it must, warned of where it often does, harmless where it may."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

from tests.processes import run_processes
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.data import SampleSet
from vlp.data.arrange import arrange
from vlp.data.order.timetable import Ramp
from vlp.ground import dist
from vlp.ground.types import RecipeError, VlpWarning
from vlp.run.build_stream import count_copies, count_workers
from vlp.run.subject import find_subject
from vlp.train import train


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    return f"{tmp_path}/shards/*.tar"


@pytest.mark.parametrize("repeat", [1, 3])
def test_a_batch_larger_than_the_data_is_refused(tmp_path, shards, repeat):
    recipe = tiny_recipe(tmp_path, shards, "train.batch_size=22", f"data.train.tiny.repeat={repeat}")
    with pytest.raises(RecipeError, match=r"train\.batch_size: 22 pairs .* 21 different samples .* to that or less"):
        train(recipe)


def test_a_batch_of_all_the_data_is_not(tmp_path, shards):
    train(tiny_recipe(tmp_path, shards, "train.batch_size=21", "train.steps=1"))


def test_many_copies_are_warned_of(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards, "data.train.tiny.repeat=4", "train.batch_size=16", "train.steps=1")
    with pytest.warns(VlpWarning, match=r"data\.train: about [\d.]+ of the 16 pairs of a batch are copies"):
        train(recipe)


def test_images_that_are_no_squares_train_and_start_from_squares(tmp_path, shards, capsys):
    squares = train(tiny_recipe(tmp_path, shards, "name=squares"))
    wide = (
        "name=wide",
        f"model.weights={squares}",
        "model.image.image_size=[32, 64]",
        "data.augment={affine: 0.5, rotation: 20}",
    )
    run = train(tiny_recipe(tmp_path, shards, *wide))
    assert "its 5 positions interpolated to 9" in capsys.readouterr().err
    last = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert np.isfinite(last)
    encoder = find_subject(str(run)).model
    assert encoder.image_size == (32, 64) and encoder.embed_images(torch.zeros(2, 3, 32, 64)).shape == (2, 16)
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    again = train(tiny_recipe(tmp_path, shards, *wide), resume=True)
    assert [json.loads(line)["loss"] for line in (again / "metrics.jsonl").read_text().splitlines()][-1] == last


def test_few_copies_are_not(tmp_path, shards):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"data\.train")
        train(tiny_recipe(tmp_path, shards, "train.batch_size=4", "train.steps=1"))


def test_copies_are_counted_as_the_order_deals_them(tmp_path):
    cards = {name: write_shards(tmp_path / name, 1, size) for name, size in (("small", 3), ("large", 40))}
    samples = SampleSet(cards)
    shares = {"small": Ramp(start=1.0), "large": Ramp(start=1.0)}
    order = arrange(samples, seed=0, batch_size=16, shares=shares)
    whole = [np.unique(order.samples_at(np.arange(k, k + 16))[1]).size for k in range(0, 48, 16)]
    assert count_copies(16, samples, order) == pytest.approx(np.mean([16 - size for size in whole]))
    assert 4.5 < count_copies(16, samples, order) < 7  # half of a batch is 8 pairs of 3 samples


def _train_on(rank, world_size, folder, shards):
    overrides = ("data.train.tiny.repeat=4", "train.batch_size=12", "model.image.patch_dropout=0.0")
    run = train(tiny_recipe(folder / str(rank), shards, *overrides))
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] if rank == 0 else []


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:data.train")
def test_copies_on_two_processes_count_as_on_one(tmp_path, shards):
    for folder in ("one", "two"):
        for rank in range(2):
            (tmp_path / folder / str(rank)).mkdir(parents=True)
    alone = _train_on(0, 1, tmp_path / "one", shards)
    together = run_processes(_train_on, 2, tmp_path / "two", shards)[0]
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (alone, together)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def share_machine(monkeypatch, everyones: list[frozenset[int]]) -> None:
    """Pretend to be the first of some processes of this machine, each of which may use these cores."""
    others = [("another", frozenset(range(100)))]
    monkeypatch.setattr("vlp.ground.cores.own_cores", lambda: everyones[0])
    monkeypatch.setattr(dist, "gather_objects", lambda _: [*((dist.machine(), own) for own in everyones), *others])


@pytest.mark.parametrize(
    ("device", "cores", "processes", "expected"),
    [
        ("cpu", 2, 1, 1),
        ("cpu", 16, 1, 4),
        ("cpu", 64, 1, 8),
        ("cpu", 2, 2, 1),
        ("cuda", 16, 1, 8),
        ("cuda", 16, 8, 1),
        ("cuda", 32, 8, 3),
        ("cuda", 1, 1, 1),
    ],
)
def test_workers_take_the_cores_that_are_left(monkeypatch, device, cores, processes, expected):
    share_machine(monkeypatch, [frozenset(range(cores))] * processes)
    assert count_workers("auto", torch.device(device)) == expected
    assert count_workers(0, torch.device(device)) == 0


def test_cores_that_a_launcher_gave_to_each_process_are_not_shared_out_again(monkeypatch):
    share_machine(monkeypatch, [frozenset(range(6 * rank, 6 * rank + 6)) for rank in range(8)])
    assert count_workers("auto", torch.device("cuda")) == 5
    share_machine(monkeypatch, [frozenset(range(8 * (rank // 4), 8 * (rank // 4) + 8)) for rank in range(8)])
    assert count_workers("auto", torch.device("cuda")) == 1  # 2 cores each: four share a memory node


def test_a_containers_time_is_shared_too(monkeypatch):
    share_machine(monkeypatch, [frozenset(range(64))] * 4)
    monkeypatch.setattr("vlp.ground.cores.quota", lambda: 16.0)
    assert count_workers("auto", torch.device("cuda")) == 3
