"""Schedule-free AdamW: what is evaluated, saved and exported is the average; what trains goes on."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.step.optimizers.test_contract import Training
from tests.step.optimizers.test_runs import PLAIN
from tests.strategies.runs import recipe_of
from vlp.ground.types import RecipeError
from vlp.run import state
from vlp.run.assemble import assemble
from vlp.run.saving import save
from vlp.run.state import restore, weights_to_evaluate
from vlp.run.trained_model import load_model_of_run
from vlp.train import one_step, train

OWN = ("optimizer={type: schedule_free, learning_rate: 0.01}", "schedule.shape=constant", *PLAIN)


def test_averages_are_the_mean_of_the_newest_weights():
    """Equation (5): with one rate, x is the plain mean of all z."""
    training = Training("schedule_free")
    weight = training.model[0].weight
    newest = []
    for number in range(5):
        training.step(number)
        newest.append(training.optimizer.state[weight]["z"].clone())
    average = training.kind.averages(training.optimizer)[weight]
    torch.testing.assert_close(average, torch.stack(newest).mean(0), rtol=1e-5, atol=1e-6)
    beta = training.kind.betas[0]
    torch.testing.assert_close(weight.detach(), beta * average + (1 - beta) * newest[-1], rtol=1e-5, atol=1e-6)


def test_averages_are_what_the_package_switches_to():
    training = Training("schedule_free")
    for number in range(4):
        training.step(number)
    average = {key: value.clone() for key, value in training.kind.averages(training.optimizer).items()}
    training.optimizer.eval()
    for parameter in training.model.parameters():
        torch.testing.assert_close(average[parameter], parameter.detach())


def test_averages_are_evaluated_saved_and_loaded_and_the_rest_goes_on(tmp_path):
    recipe = recipe_of(tmp_path, *OWN)
    run = assemble(recipe, resume=False, allow_changes=False)
    restore(run)
    batches = run.stream.batches(0)
    for step in range(3):
        one_step(run, next(batches), step)
    trained = {key: value.detach().clone() for key, value in run.towers.named_parameters()}
    average = weights_to_evaluate(run)
    assert any(not torch.equal(value, average[key]) for key, value in trained.items())
    save(run, step=3, position=24)
    file = load_file(recipe.folder / "checkpoints" / "step_00000003" / "model.safetensors")
    exported = load_model_of_run(recipe.folder).model.state_dict()
    assert file.keys() == average.keys() == exported.keys()
    for key, value in average.items():
        assert torch.equal(file[key], value) and torch.equal(exported[key], value)
    for key, value in run.towers.named_parameters():
        assert torch.equal(value, trained[key])  # nobody has switched them
    again = assemble(recipe, resume=True, allow_changes=False)
    assert restore(again) == (3, 24)
    for key, value in again.towers.named_parameters():
        assert torch.equal(value, trained[key])


def test_saving_the_average_changes_nothing(tmp_path):
    losses = []
    for name, every in (("often", 1), ("once", 6)):
        recipe = recipe_of(tmp_path / name, *OWN, f"checkpoint.every={every}")
        losses.append(load_file(train(recipe) / "checkpoints" / "step_00000006" / "model.safetensors"))
    assert all(torch.equal(value, losses[1][key]) for key, value in losses[0].items())


def test_the_average_of_the_scale_stays_in_its_range(tmp_path):
    recipe = recipe_of(tmp_path, *OWN, "model.max_scale=15.0", "optimizer.learning_rate=0.5")
    run = assemble(recipe, resume=False, allow_changes=False)
    for step, batch in zip(range(4), run.stream.batches(0), strict=False):
        run.towers.core.logit_scale.register_hook(lambda gradient: -torch.ones_like(gradient))
        one_step(run, batch, step)
    scale = run.towers.core.logit_scale
    assert scale.item() == run.optimizer.state[scale]["z"].item() == pytest.approx(math.log(15.0))
    assert float(weights_to_evaluate(run)["core.logit_scale"]) <= math.log(15.0) * (1 + 1e-6)


def test_a_schedule_and_batch_norm_are_refused(tmp_path):
    with pytest.raises(
        RecipeError, match=r"optimizer\.type: schedule_free has no schedule .* schedule\.shape=constant"
    ):
        train(recipe_of(tmp_path / "a", "optimizer.type=schedule_free"))
    convolutional = "model.image={type: timm, name: resnet10t, image_size: 64}"
    with pytest.raises(RecipeError, match=r"optimizer\.type: schedule_free .* batch norm has no statistics"):
        train(recipe_of(tmp_path / "b", *OWN[:2], convolutional))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(RecipeError, match=r"optimizer\.type: .*pip install 'vlp\[optimizers\]'"):
        Training("schedule_free")


def test_other_optimizers_average_nothing(tmp_path):
    run = assemble(recipe_of(tmp_path, *PLAIN), resume=False, allow_changes=False)
    assert run.averages() == {} and state.weights_to_evaluate(run).keys() == run.towers.state_dict().keys()
