"""Learned tokens within a training: they alone change, resume is bit for bit, and two processes equal one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.processes import run_processes
from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.tiny import tiny_recipe
from tests.towers.tiny import tiny_batch
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe
from vlp.recipe.model import build_model
from vlp.run.checkpoint import candidates, latest, open_checkpoint
from vlp.run.trained_model import load_model_of_run
from vlp.towers.learned_tokens import add_prompts, is_prompt
from vlp.train import train

PROMPTED = ("model.tune={type: prompts, text: 3, image: 2}", "train.precision=float32")
FURTHER = ("data.train=embedded", "train.steps=1")


def test_ids_stand_behind_the_start_token():
    tokens, lengths = add_prompts(torch.tensor([[7, 1, 9], [7, 9, 0]]), torch.tensor([3, 2]).numpy(), 2, 1)
    assert tokens.tolist() == [[7, -1, -2, 1, 9], [7, -1, -2, 9, 0]]
    assert lengths.tolist() == [5, 4]
    assert add_prompts(torch.tensor([[1, 9]]), lengths, 1, 0)[0].tolist() == [[-1, 1, 9]]


def test_a_run_trains_its_tokens_alone_and_resumes_bit_for_bit(tmp_path):
    recipe = recipe_of(tmp_path, *PROMPTED, "optimizer.learning_rate=0.01", "train.micro_batches=2")
    assert_resumes(recipe)
    early, late = (open_checkpoint(path).weights("model") for path in sorted(candidates(recipe.folder)))
    changed = {name for name in late if not torch.equal(early[name], late[name])}
    assert changed == {name for name in late if is_prompt(name)} | {"core.logit_scale"}


def test_micro_batches_change_nothing(tmp_path):
    found = []
    for number in (1, 4):
        recipe = recipe_of(tmp_path, *PROMPTED, STEADY, f"name=run{number}", f"train.micro_batches={number}")
        found.append([line["loss"] for line in losses_of(train(recipe))])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def _train_with_others(rank, world_size, folder, shards):
    recipe = tiny_recipe(Path(folder) / str(rank), shards, *PROMPTED, STEADY, f"runs={folder}/two")
    return losses_of(train(recipe))


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path):
    recipe = recipe_of(tmp_path, *PROMPTED, STEADY)
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    one = losses_of(train(recipe))
    two = run_processes(_train_with_others, 2, str(tmp_path), f"{tmp_path}/shards/*.tar")[0]
    for single, double in zip(one, two, strict=True):
        assert double["loss"] == pytest.approx(single["loss"], rel=1e-3)  # float32 sums in another order, 6 steps


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(recipe_of(tmp_path_factory.mktemp("prompted"), *PROMPTED, "evaluation.weights=model"))


def test_the_model_of_a_run_reads_captions_as_it_was_trained_to(run):
    raw = build_model(load_model_of_run(run).recipe.model)
    raw.load_state_dict(latest(run).weights("model"))
    merged = load_model_of_run(run).model
    seen = []
    for model in (raw.eval(), merged):
        pixels, tokens, lengths = tiny_batch(model)
        with torch.no_grad():
            seen.append(model(pixels, tokens, lengths.numpy()))
    assert torch.equal(seen[0].text, seen[1].text)
    assert torch.equal(seen[0].image, seen[1].image)


def test_another_run_begins_with_the_tokens_of_the_first(run):
    recipe = load_recipe("base", ("name=again", f"model.weights={run}", *PROMPTED, *FURTHER))
    state, known = build_model(recipe.model).state_dict(), latest(run).weights("model")
    assert state.keys() == known.keys()
    assert all(torch.equal(state[name], value) for name, value in known.items())


@pytest.mark.parametrize("tune", ["full", "{type: prompts, text: 4, image: 2}"])
def test_what_has_no_place_for_them_is_refused(run, tune):
    recipe = load_recipe("base", ("name=again", f"model.weights={run}", f"model.tune={tune}", *FURTHER))
    with pytest.raises(RecipeError, match=r"go with learned tokens \(visual.+ \(2, 32\).+: set model.tune as it"):
        build_model(recipe.model)
