"""Small images first: they reach the tower, end in time, and survive a resume."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.shards import write_shards
from tests.strategies.runs import STEADY, assert_resumes, recipe_of
from tests.tiny import tiny_recipe
from vlp.ground.types import Batch, RecipeError
from vlp.strategies.small_first import SmallFirst
from vlp.train import train

CONVOLUTIONAL = "model.image={type: timm, name: resnet10t, image_size: 64}"


def batch_of(side: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 4, side, side, 3), generator=generator, dtype=torch.uint8)
    rows, ids = torch.zeros((1, 4, 1), dtype=torch.int64), torch.arange(4)
    return Batch(images, rows, rows[..., 0], rows.float(), ids, ids, ("tiny",) * 4)


def test_wide_images_are_refused(tmp_path):
    write_shards(tmp_path / "shards", 1, 16)
    wide = "model.image.image_size=[32, 64]"
    settings = ("strategies={small_first: {image_size: 32, steps: 2}}", "evaluation={}", wide)
    with pytest.raises(RecipeError, match=r"small_first: its images are square, and .* is \[32, 64\]"):
        train(tiny_recipe(tmp_path, f"{tmp_path}/shards/*.tar", *settings))


def test_images_shrink_until_the_step_then_stay_as_they_are():
    strategy, batch = SmallFirst(image_size=32, steps=2), batch_of(64)
    sides = []
    for _ in range(3):
        sides.append(tuple(strategy.before_forward(batch).images.shape[2:4]))
        strategy.after_step(None)
    assert sides == [(32, 32), (32, 32), (64, 64)]


def test_shrinking_keeps_what_is_seen():
    batch = batch_of(64)
    small = SmallFirst(image_size=32, steps=1).before_forward(batch).images
    assert small.dtype == torch.uint8
    blocks = batch.images.float().unflatten(2, (32, 2)).unflatten(4, (32, 2)).mean((3, 5))
    assert (small.float() - blocks).abs().mean() < 20 < (small.float() - blocks.flip(2)).abs().mean()


def test_resume_equals_no_interruption(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    recipe = tiny_recipe(
        tmp_path, f"{tmp_path}/shards/*.tar", CONVOLUTIONAL, "strategies.small_first={image_size: 32, steps: 4}"
    )
    run = train(recipe)
    whole = (run / "metrics.jsonl").read_text().splitlines()
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    train(recipe, resume=True)
    again = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in again] == [json.loads(line)["loss"] for line in whole]


TRANSFORMERS = {
    "open_clip": (STEADY, "model.image.image_size=64", 32),
    "timm": ("model.image={type: timm, name: test_vit}", "log.every=1", 80),
}


COMPILED = pytest.param("open_clip", True, marks=pytest.mark.long)


@pytest.mark.parametrize(("tower", "compiled"), [("open_clip", False), ("timm", False), COMPILED])
def test_transformers_take_small_images_too_and_go_on_bit_for_bit(tmp_path, tower, compiled, monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic: compile_(function, dynamic=dynamic, backend="aot_eager")
    )
    *own, side = TRANSFORMERS[tower]
    small = f"strategies.small_first={{image_size: {side}, steps: 4}}"
    assert_resumes(recipe_of(tmp_path, small, f"train.compile={compiled}".lower(), *own))


def test_a_size_without_whole_patches_is_refused(tmp_path):
    recipe = recipe_of(tmp_path, "strategies.small_first={image_size: 24, steps: 4}")
    with pytest.raises(
        RecipeError, match=r"does not take 24 px: for a vision transformer .* multiple of its patch size"
    ):
        train(recipe)


def test_a_tower_of_one_size_is_refused(tmp_path):
    tower = "model.image={type: timm, name: test_vit_relpos}"  # adds to attention what depends on places in the grid
    recipe = recipe_of(tmp_path, tower, "strategies.small_first={image_size: 80, steps: 4}")
    with pytest.raises(RecipeError, match="does not take 80 px"):
        train(recipe)
