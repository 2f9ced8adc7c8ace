"""What a run will need is looked for before its first step."""

from __future__ import annotations

from collections import namedtuple

import pytest

from tests.evaluators.sets import write_regions
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.ground.types import RecipeError, VlpWarning
from vlp.run import ready, trackers
from vlp.run.checkpoint import latest
from vlp.run.ready import check_writable
from vlp.run.trackers import plain_settings
from vlp.train import train

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    return f"{tmp_path}/shards/*.tar"


def test_a_task_whose_set_is_not_there_is_refused(tmp_path, shards, monkeypatch):
    monkeypatch.delenv("VLP_EVAL_ROOT", raising=False)
    with pytest.raises(RecipeError, match=r"evaluation\.tasks: imagenet1k: .*VLP_EVAL_ROOT.*take the task out"):
        train(tiny_recipe(tmp_path, shards, "evaluation.tasks=[imagenet1k]"))
    monkeypatch.setenv("VLP_EVAL_ROOT", str(tmp_path))
    (tmp_path / "wds_imagenet1k").mkdir()
    with pytest.raises(RecipeError, match=r"evaluation\.tasks: imagenet1k: .*nshards\.txt"):
        train(tiny_recipe(tmp_path, shards, "evaluation.tasks=[imagenet1k]"))
    assert not (tmp_path / "runs").exists()


def test_a_task_that_the_decoder_cannot_do_is_refused(tmp_path, shards):
    card = write_regions(tmp_path / "parts.yaml", [[((0.0, 0.0, 0.5, 1.0), "a dog")]])
    task = tmp_path / "boxes.yaml"
    task.write_text(f"version: 1\nevaluator: grounding\nmain_metric: acc@0.5\ndata: {{root: {card}}}\n")
    with pytest.raises(
        RecipeError, match=r"evaluation\.tasks: .*boxes\.yaml: the model has no decoder that knows boxes"
    ):
        train(tiny_recipe(tmp_path, shards, f"evaluation.tasks=[{task}]"))


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, shards, monkeypatch):
    monkeypatch.setitem(trackers.PACKAGES, "wandb", ("wandb_is_not_here",))
    with pytest.raises(RecipeError, match=r"log\.trackers: wandb is not installed: pip install wandb_is_not_here"):
        train(tiny_recipe(tmp_path, shards, "log.trackers=[wandb]"))


def test_a_tracker_that_does_not_start_costs_no_run(tmp_path, shards, monkeypatch):
    def refuse(*_arguments, **_settings):
        raise ConnectionError("no account")

    pytest.importorskip("tensorboard")
    monkeypatch.setattr("accelerate.Accelerator.init_trackers", refuse)
    with pytest.warns(VlpWarning, match="goes on untracked: ConnectionError: no account"):
        train(tiny_recipe(tmp_path, shards, "log.trackers=[tensorboard]", "train.steps=1"))


def test_trackers_get_the_whole_recipe_and_the_same_run_after_a_resume(tmp_path, shards, monkeypatch):
    pytest.importorskip("tensorboard")
    given = []

    def keep(self, project, config, init_kwargs):
        given.append((project, config, init_kwargs))

    monkeypatch.setattr("accelerate.Accelerator.init_trackers", keep)
    recipe = tiny_recipe(tmp_path, shards, "log.trackers=[tensorboard]", "train.steps=1", "log.project=mine")
    train(recipe)
    train(recipe, resume=True)
    train(tiny_recipe(tmp_path, shards, "log.trackers=[tensorboard]", "train.steps=1", "name=other"))
    (project, config, names), again, other = given
    assert project == "mine"
    assert config["optimizer.learning_rate"] == recipe.optimizer.learning_rate
    assert config["objective.clip.type"] == "clip"
    assert all(isinstance(value, bool | int | float | str) for value in config.values())
    assert names["wandb"] == {"name": "tiny", "id": names["wandb"]["id"], "resume": "allow"}
    assert again[2] == names
    assert other[2]["wandb"]["id"] != names["wandb"]["id"]
    assert plain_settings(recipe) == config


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, shards):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=r"runs, name: .* cannot be written .*set runs=FOLDER"):
        train(tiny_recipe(tmp_path, shards, f"runs={tmp_path / 'file'}"))
    with pytest.raises(RecipeError, match=r"set runs=FOLDER"):
        train(tiny_recipe(tmp_path, shards, "runs=/proc/nowhere"))


def test_looking_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_room_on_the_disk_is_looked_for(tmp_path, shards, monkeypatch):
    run = train(tiny_recipe(tmp_path, shards, "checkpoint.keep=1"))
    real = sum(file.stat().st_size for file in latest(run).path.iterdir())
    size = []
    measure = ready.checkpoint_bytes
    monkeypatch.setattr(ready, "checkpoint_bytes", lambda *things: size.append(measure(*things)) or size[-1])
    monkeypatch.setattr(ready.shutil, "disk_usage", lambda _: Usage(0, 0, real // 2))
    with pytest.raises(RecipeError, match=r"runs: a checkpoint takes .*set runs=FOLDER on another disk"):
        train(tiny_recipe(tmp_path, shards, "name=second"))
    assert 0.7 < size[0] / real < 1.05
    monkeypatch.setattr(ready.shutil, "disk_usage", lambda _: Usage(0, 0, 2 * real))
    with pytest.warns(VlpWarning, match=r"checkpoint\.keep: 2 checkpoints of"):
        train(tiny_recipe(tmp_path, shards, "name=third", "train.steps=1", "checkpoint.keep=2"))
