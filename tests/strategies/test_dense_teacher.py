"""The dense teacher: maps of averaged weights, where each view was cut, and runs that compare places."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.towers.tiny import tiny_batch, tiny_model
from vlp.ground.types import Batch, RecipeError
from vlp.run.subject import find_subject
from vlp.strategies.dense_teacher import DenseTeacher
from vlp.train import train

VIEWS = "data.views={second: {scale: [0.3, 0.9]}}"
SETTINGS = (
    STEADY,
    VIEWS,
    "objective={clip: {}, uniformity: null, pixpro: {hidden_width: 8, width: 4, last_step: 6}}",
    "strategies.dense_teacher={decay: 0.9, last_step: 6}",
)
GOPRO = ("objective={pixpro: null, gopro: {}}", "strategies.dense_teacher=null")


def test_maps_are_what_averaged_weights_say_of_both_views():
    model = tiny_model().eval()
    assert model.hand_out_maps() == 32
    images, tokens, lengths = tiny_batch(model)
    images = torch.cat([images, images.flip(-1), images.flip(-2)])
    before = model(images, tokens, lengths.numpy())
    strategy = DenseTeacher(decay=1.0)
    strategy.start(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    size = tokens.shape[1]
    cuts = torch.arange(3 * size * 5).view(3, size, 5).float()
    pixels, ids = torch.zeros(3, size, 1, 1, 3, dtype=torch.uint8), torch.arange(size)
    batch = Batch(pixels, tokens, lengths, torch.zeros(3, size, 1), ids, ids, ("tiny",) * size, cuts=cuts)
    seen = strategy.after_forward(images, batch, model(images, tokens, lengths.numpy()))
    assert len(seen.image_maps) == 3 and len(seen.taught_maps) == len(seen.image_cuts) == 2
    for view in range(2):
        assert seen.image_maps[view].shape == (size, 4, 4, 32)
        torch.testing.assert_close(seen.taught_maps[view], before.image_maps[view].detach())
        assert not torch.allclose(seen.image_maps[view], seen.taught_maps[view])
        assert torch.equal(seen.image_cuts[view], cuts[view])
        assert not seen.taught_maps[view].requires_grad
    alone = strategy.after_forward(images, replace(batch, cuts=cuts[:1]), model(images, tokens, lengths.numpy()))
    assert all(torch.equal(each, cuts[0]) for each in alone.image_cuts)  # of views that a strategy made of the first


def test_the_past_weighs_ever_more():
    model = tiny_model()
    model.hand_out_maps()
    strategy = DenseTeacher(decay=0.5, last_step=4)
    strategy.start(model)
    name = "core.visual.proj"
    value = strategy.average[name].clone()
    for decay in (0.5, 1 - 0.5 * (1 + 0.5**0.5) / 2, 0.75):
        with torch.no_grad():
            model.core.visual.proj.add_(1.0)
        strategy.after_step(model)
        value = decay * value + (1 - decay) * model.core.visual.proj.detach()
        torch.testing.assert_close(strategy.average[name], value)


def test_a_run_resumes_bit_for_bit_and_micro_batches_change_no_loss(tmp_path):
    assert_resumes(recipe_of(tmp_path, *SETTINGS, "train.micro_batches=2"))
    (run,) = (tmp_path / "runs").iterdir()
    whole = train(recipe_of(tmp_path, *SETTINGS, "name=whole"))
    for one, other in zip(losses_of(whole), losses_of(run), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    said = [line["loss/pixpro"] for line in losses_of(whole)]  # two mean cosines, each with a minus
    assert len(set(said)) == len(said) and all(0 < abs(loss) <= 2 for loss in said)
    with pytest.raises(RecipeError, match="no head is called 'pixpro'"):
        find_subject(f"{whole}@pixpro")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (("data.augment={affine: 0.5, rotation: 10}",), "data.augment.affine"),
        (("data.policy={type: randaugment}",), "moves pixels"),
        (("model.image.patch_dropout=0.5",), "leaves patches out"),
        (("model.freeze=[visual]",), "model.freeze: .* it is locked"),
        (("model.freeze=[visual]", *GOPRO), "objective.gopro compares views of images"),
        (("strategies.dense_teacher=null",), "add strategies.dense_teacher"),
    ],
)
@pytest.mark.filterwarnings("ignore:model.freeze")
def test_what_cannot_work_is_refused(tmp_path, overrides, complaint):
    with pytest.raises(RecipeError, match=complaint):
        train(recipe_of(tmp_path, *SETTINGS, *overrides))


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [(SETTINGS[2:], "there is one: set data.views"), (SETTINGS[3:], "no term compares places")],
)
def test_views_are_needed_and_a_term(tmp_path, overrides, complaint):
    with pytest.raises(RecipeError, match=complaint):
        train(recipe_of(tmp_path, STEADY, *overrides))
