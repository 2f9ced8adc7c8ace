"""Runs on images of their own aspect ratio: the same however they are cut up, and refusals of what cannot be."""

from __future__ import annotations

import json

import pytest

from tests.processes import run_processes
from tests.strategies.layouts import assert_alike, steps_of
from tests.strategies.runs import assert_resumes, losses_of, recipe_of
from tests.towers.native import NATIVE, WIDTH
from vlp.ground.types import RecipeError
from vlp.train import train

SMALL = (
    f"model.image={json.dumps(NATIVE)}",
    f"model.embed_dim={WIDTH}",
    "data.crop={scale: [0.3, 1.0], ratio: [0.3, 3.0]}",
    "data.max_patches=[4, 9, 16]",
)
CASE = ("siglip2_native_smoke", ())


def test_a_run_resumes_bit_for_bit_and_starts_from_a_square_one(tmp_path):
    square = train(recipe_of(tmp_path, *SMALL, "model.image.max_patches=null", "data.max_patches=[]", "name=square"))
    start = (*SMALL, f"model.weights={square}", "train.micro_batches=2")
    assert_resumes(recipe_of(tmp_path, *start))
    whole = losses_of(train(recipe_of(tmp_path, *start, "train.micro_batches=1", "name=whole")))
    for one, other in zip(whole, losses_of(tmp_path / "runs" / "tiny"), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_micro_batches_equal_one_pass():
    assert_alike(steps_of(*CASE, micro_batches=4), steps_of(*CASE))


def _in_a_process(_rank, _world_size):
    return steps_of(*CASE)


@pytest.mark.processes
def test_two_processes_equal_one():
    expected = steps_of(*CASE)
    for found in run_processes(_in_a_process, 2):
        assert_alike(found, expected)


@pytest.mark.filterwarnings("ignore:model.freeze")
@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (("model.image.max_patches=null",), "data.max_patches: the image tower reads images of one size"),
        (("data.max_patches=[4, 25]",), r"data.max_patches: \[4, 25\] must lie between 1 and .*=16"),
        (("data.views={second: {}}", "objective.mv_infonce={}"), "data.views: images keep their aspect ratio"),
        (("data.augment={blur: 0.5}",), "data.augment.blur: images keep .* set it to 0; brightness"),
        (("data.policy={type: randaugment}",), "data.policy: images keep"),
        (
            ("strategies.sequence_lengths={lengths: [4]}",),
            "strategies.sequence_lengths: images keep .*data.max_patches",
        ),
        (("strategies.adversarial_images={}",), "strategies.adversarial_images: images keep"),
        (("model.image.patch_drop=0.5",), "image.patch_drop: would leave out patches and padding"),
        (("objective.pixpro={}", "data.views={second: {}}"), "images have grids of their own"),
        (("model.freeze=[visual]", "train.keep_locked=true"), "train.keep_locked: .*several aspect ratios"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, overrides, complaint):
    with pytest.raises(RecipeError, match=complaint):
        train(recipe_of(tmp_path, *SMALL, *overrides))
