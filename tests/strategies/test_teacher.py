"""Other models as teachers: what they say reaches the terms, resumes, and stands in no checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.processes import run_processes
from tests.shards import write_shards
from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.tiny import tiny_recipe
from tests.towers.tiny import CAPTIONS, tiny_batch, tiny_export, tiny_model
from vlp.ground.types import Batch, RecipeError
from vlp.plan.counts import count
from vlp.run.trained_model import load_model_of_run
from vlp.strategies.teacher import OtherModels
from vlp.train import train

TERMS = "objective={feature_distillation: {}, byolip: {hidden_width: 8}, soft_targets: {teacher_scale: 50}, clip: {}}"


def taught_by(*models: str):
    """Return what a model and its teachers say of a batch."""
    model = tiny_model().eval()
    images, tokens, lengths = tiny_batch(model)
    size, ids = tokens.shape[1], torch.arange(tokens.shape[1])
    pixels = torch.zeros(1, size, 1, 1, 3, dtype=torch.uint8)
    batch = Batch(
        pixels, tokens, lengths, torch.zeros(1, size, 1), ids, ids, ("tiny",) * size, captions=tuple(CAPTIONS)
    )
    strategy = OtherModels(models=models)
    strategy.load()
    strategy.start(model)
    return strategy.after_forward(images, batch, model(images, tokens, lengths.numpy()))


@pytest.fixture
def export(tmp_path):
    return str(tiny_export(tmp_path / "export"))


@pytest.fixture
def other(tmp_path):
    return str(tiny_export(tmp_path / "other", shift=0.05))


def test_a_model_that_is_its_own_teacher_hears_itself(export):
    seen = taught_by(export)
    assert torch.equal(seen.teacher.image, seen.image.detach())
    assert torch.equal(seen.teacher.text, seen.text.detach())
    assert not seen.teacher.image.requires_grad


def test_several_are_one_whose_similarities_are_the_means(export, other):
    one, two, both = taught_by(export).teacher, taught_by(other).teacher, taught_by(export, other).teacher
    assert not torch.allclose(one.image, two.image)
    assert both.image.shape[1] == 32
    torch.testing.assert_close(both.image.norm(dim=1), torch.ones(len(CAPTIONS)))
    means = (one.image @ one.text.T + two.image @ two.text.T) / 2
    torch.testing.assert_close(both.image @ both.text.T, means)


def test_its_width_and_what_was_read_are_known_before_the_first_step(export, other):
    strategy = OtherModels(models=(export, f"{other}@5"))
    state = torch.random.get_rng_state()
    said = strategy.load()
    assert torch.equal(torch.random.get_rng_state(), state)  # what is drawn next does not depend on teachers
    assert strategy.teacher_dim == 21
    assert said.startswith(f"{export} (16 wide, checksum ") and f"{other}@5 (5 wide" in said


@pytest.mark.parametrize("workers", [0, 1])
def test_resume_equals_no_interruption_and_keeps_no_teacher(tmp_path, export, other, workers):
    used = f"strategies.teacher={{models: [{export}, {other}]}}"
    recipe = recipe_of(tmp_path, TERMS, used, f"data.workers={workers}")
    assert_resumes(recipe)
    step = recipe.folder / "checkpoints" / "step_00000006"
    assert {path.name for path in step.glob("*.safetensors")} == {"model.safetensors", "ema.safetensors"}
    with safe_open(step / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(load_model_of_run(recipe.folder).model.state_dict())


def test_another_teacher_in_its_place_is_refused(tmp_path, export):
    recipe = recipe_of(tmp_path, TERMS, f"strategies.teacher={{models: [{export}]}}")
    train(recipe)
    (tmp_path / "export").rename(tmp_path / "before")
    tiny_export(tmp_path / "export", shift=0.05)
    with pytest.raises(RecipeError, match=r"strategies\.teacher: .*the weights of '.*export' are others"):
        train(recipe, resume=True)


def test_a_run_teaches_another(tmp_path, export):
    """By its averages, as it is evaluated, or by the label of others."""
    run = train(recipe_of(tmp_path / "first"))
    terms = "objective={soft_targets: {}, clip: {}}"
    found = [
        losses_of(train(recipe_of(tmp_path / label, terms, f"strategies.teacher={{models: ['{run}{label}']}}")))
        for label in ("", ":ema", ":model")
    ]
    assert found[0] == found[1] != found[2]


def _train_with_others(rank, world_size, folder, shards, overrides):
    run = train(tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs", "name=two", *overrides))
    return losses_of(run)


@pytest.mark.processes
def test_two_processes_and_micro_batches_train_alike(tmp_path, export, other):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    shards = f"{tmp_path}/shards/*.tar"
    options = (STEADY, TERMS, f"strategies.teacher={{models: [{export}, {other}]}}")
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    one = losses_of(train(tiny_recipe(tmp_path, shards, "name=one", *options)))
    pieces = losses_of(train(tiny_recipe(tmp_path, shards, "name=pieces", *options, "train.micro_batches=2")))
    two = run_processes(_train_with_others, 2, str(tmp_path), shards, options)[0]
    for whole, *others in zip(one, pieces, two, strict=True):
        for each in others:
            assert each == pytest.approx(whole, rel=1e-3, abs=1e-5)  # float32, Adam from its first step


@pytest.mark.parametrize(
    ("used", "message"),
    [
        ("strategies.teacher={models: []}", r"strategies\.teacher: models: name at least one"),
        (
            "strategies.teacher={models: [nothing/there]}",
            r"strategies\.teacher: there is no run, export.*nothing/there",
        ),
        (
            "strategies={dual_teacher: {}, teacher: {models: [EXPORT]}}",
            "dual_teacher and teacher both provide a teacher",
        ),
    ],
)
def test_mistakes_are_refused_by_their_key(tmp_path, export, used, message):
    with pytest.raises(RecipeError, match=message):
        train(recipe_of(tmp_path, "objective={soft_targets: {}, clip: {}}", used.replace("EXPORT", export)))


def test_a_plan_counts_what_teachers_cost(tmp_path, export):
    terms = "objective={soft_targets: {}, clip: {}}"
    alone, by_itself, taught = (
        count(recipe_of(tmp_path, terms, f"strategies={{{used}}}"))
        for used in ("ema: {}", "dual_teacher: {}", f"teacher: {{models: [{export}]}}")
    )
    assert taught.strategies > by_itself.strategies > alone.strategies == 0  # two layers, where the student has one
    held = sum(value.nbytes for value in tiny_model().state_dict().values())
    assert taught.beside - alone.beside == pytest.approx(held, rel=0.01)
    assert taught.uncounted == ()
