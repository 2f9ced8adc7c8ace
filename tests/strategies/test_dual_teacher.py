"""The dual teacher: averaged weights of both towers, frozen at decay 1, the same after a resume."""

from __future__ import annotations

import pytest
import torch

from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.towers.tiny import tiny_batch, tiny_model
from vlp.ground.types import Batch, RecipeError
from vlp.run.compatibility import PROVIDERS
from vlp.strategies.dual_teacher import DualTeacher
from vlp.train import train

TERMS = "objective={feature_distillation: {}, byolip: {predictor: direct}, soft_targets: {}, clip: {}}"


def seen_by(strategy: DualTeacher, model, inputs):
    """Return what model and teacher say about a batch."""
    images, tokens, lengths = inputs
    size = tokens.shape[1]
    ids = torch.arange(size)
    pixels = torch.zeros(1, size, 1, 1, 3, dtype=torch.uint8)
    batch = Batch(pixels, tokens, lengths, torch.zeros(1, size, 1), ids, ids, ("tiny",) * size)
    return strategy.after_forward(images, batch, model(images, tokens, lengths))


def move(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def test_decay_one_is_the_model_as_it_was():
    model = tiny_model()
    inputs, before = tiny_batch(model), model.eval()(*tiny_batch(model))
    strategy = DualTeacher(decay=1.0, warmup=False)
    strategy.start(model)
    for _ in range(3):
        move(model)
        strategy.after_step(model)
    seen = seen_by(strategy, model, inputs)
    torch.testing.assert_close(seen.teacher.image, before.image.detach())
    torch.testing.assert_close(seen.teacher.text, before.text.detach())
    assert not torch.allclose(seen.image, before.image)


def test_decay_zero_is_the_model_without_gradient():
    model = tiny_model().eval()
    strategy = DualTeacher(decay=0.0, warmup=False)
    strategy.start(model)
    move(model)
    strategy.after_step(model)
    seen = seen_by(strategy, model, tiny_batch(model))
    torch.testing.assert_close(seen.teacher.image, seen.image.detach())
    torch.testing.assert_close(seen.teacher.text, seen.text.detach())
    assert not seen.teacher.image.requires_grad
    assert not seen.teacher.text.requires_grad


def test_the_teacher_drops_nothing_and_leaves_the_mode_alone():
    model = tiny_model(
        {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32, "patch_dropout": 0.5}
    )
    strategy = DualTeacher()
    strategy.start(model.train())
    inputs = tiny_batch(model)
    first, second = (seen_by(strategy, model, inputs) for _ in range(2))
    assert torch.equal(first.teacher.image, second.teacher.image)
    assert not torch.equal(first.image, second.image)
    assert model.training


DEGLA = (
    "objective={clip_negatives: {}, image_grounded: {}, text_grounded: {}, feature_distillation: {sum_over: 256}}",
    "strategies={dual_teacher: {decay: 0.5, negatives: true, base_batch: 4}, hard_negatives: {}}",
    "data.captions.negatives={count: 4}",
    "evaluation.weights=model",
)


def test_it_reads_wrong_captions_where_it_is_asked_to():
    model = tiny_model().eval()
    images, tokens, lengths = tiny_batch(model)
    tokens, lengths = tokens[:1], lengths[:1]
    views = torch.stack([tokens[0].roll(k, 0) for k in range(4)])
    view_lengths = torch.stack([lengths[0].roll(k, 0) for k in range(4)])
    size, ids = tokens.shape[1], torch.arange(tokens.shape[1])
    pixels = torch.zeros(1, size, 1, 1, 3, dtype=torch.uint8)
    batch = Batch(pixels, views, view_lengths, torch.zeros(1, size, 8), ids, ids, ("tiny",) * size, num_negatives=2)
    strategy = DualTeacher(decay=1.0, negatives=True)
    strategy.start(model)
    whole = model(images, views, view_lengths)
    teacher = strategy.after_forward(images, batch, whole).teacher
    torch.testing.assert_close(teacher.text, whole.text.detach())
    torch.testing.assert_close(teacher.negatives, torch.stack(whole.text_views[1:], dim=1).detach())
    assert not teacher.negatives.requires_grad


def test_a_teacher_of_wrong_captions_that_are_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"strategies\.dual_teacher\.negatives: there are none"):
        train(recipe_of(tmp_path, TERMS, "strategies={dual_teacher: {negatives: true}}", "evaluation.weights=model"))


def test_degla_resumes_and_trains_alike_in_micro_batches(tmp_path):
    (tmp_path / "halves").mkdir()
    assert_resumes(recipe_of(tmp_path, *DEGLA, STEADY))
    halves = losses_of(train(recipe_of(tmp_path / "halves", *DEGLA, STEADY, "train.micro_batches=2")))
    for one, two in zip(losses_of(tmp_path / "runs" / "tiny"), halves, strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)  # float32, Adam from its first step


def test_resume_equals_no_interruption(tmp_path):
    assert_resumes(recipe_of(tmp_path, TERMS, "strategies.dual_teacher={decay: 0.5}"))


def test_micro_batches_train_alike(tmp_path):
    """Also with networks of a term's own, whose parameters no tower has."""
    networks = "objective.swav={num_prototypes: 8}"
    losses = []
    for pieces in (1, 2):
        options = (STEADY, TERMS, networks, "strategies.dual_teacher={}", f"train.micro_batches={pieces}")
        losses.append(losses_of(train(recipe_of(tmp_path / str(pieces), *options))))
    for one, two in zip(*losses, strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)  # float32, Adam from its first step


def test_a_term_without_its_teacher_names_the_way_out(tmp_path):
    with pytest.raises(RecipeError, match=r"objective.soft_targets: needs a teacher.*dual_teacher"):
        train(recipe_of(tmp_path, "objective.soft_targets={}"))
    assert {"teacher", "negatives"} <= PROVIDERS.keys()
