"""Moved captions stay in their ball and keep their ends; they hurt more than noise, and processes agree on them."""

import pytest
import torch
from torch.nn import functional

from tests.small_steps import batch_for, small_parts, small_recipe
from tests.strategies.layouts import assert_alike, steps_of
from tests.strategies.runs import STEADY, assert_resumes, recipe_of
from vlp.ground.types import RecipeError
from vlp.strategies.adversarial_texts import AdversarialTexts
from vlp.train import one_step

PAIRS = 8
PLAIN = ("train.precision=float32", f"train.batch_size={PAIRS}", STEADY)


def parts_of(monkeypatch, settings="{}", *overrides):
    recipe = small_recipe("vitb32_clip", f"strategies.adversarial_texts={settings}", *PLAIN, *overrides)
    return small_parts(monkeypatch, recipe)


def attacked(parts, batch):
    """Return the batch with names, and where its tokens go."""
    strategy = parts.strategies["adversarial_texts"]
    batch = strategy.before_forward(batch)
    return batch, strategy.attack(batch)


def embedded(parts, batch, offsets):
    """Return embeddings of captions with moved tokens, by a path of their own: the tower, one caption at a time."""
    tower, found = parts.towers.core.text, []
    for k in range(PAIRS):
        tokens = batch.tokens[0, k, : batch.lengths[0, k]]
        hidden = tower.token_embedding.weight[tokens] + offsets[k, : len(tokens)]
        hidden = hidden + tower.positional_embedding[: len(tokens)]
        mask = torch.full((len(tokens), len(tokens)), -torch.inf).triu(1)
        hidden = tower.ln_final(tower.transformer(hidden[None], attn_mask=mask))
        found.append(hidden[0, -1] @ tower.text_projection)
    return functional.normalize(torch.stack(found), dim=1)


def misses(parts, batch, offsets):
    """Return by how much wrong captions are nearer than the right one, a pair at a time."""
    with parts.towers.at_rest():
        moved = embedded(parts, batch, offsets)
        clean = embedded(parts, batch, torch.zeros_like(offsets)).detach()
    scale, found = parts.towers.scale.detach(), []
    for i in range(PAIRS):
        logits = [scale * moved[i] @ clean[j] for j in range(PAIRS)]
        found.append(torch.logsumexp(torch.stack(logits[:i] + logits[i + 1 :]), 0) - logits[i])
    return torch.stack(found)


def mean_norm(parts, batch):
    norms = [
        parts.towers.core.text.token_embedding.weight[token].norm()
        for tokens, length in zip(batch.tokens[0], batch.lengths[0], strict=True)
        for token in tokens[1 : length - 1]
    ]
    return torch.stack(norms).mean().detach()


def test_two_steps_are_those_of_a_slow_reading(monkeypatch):
    parts = parts_of(monkeypatch, "{epsilon: 0.5, step_size: 0.3, steps: 2}")
    plain = batch_for(parts.recipe, PAIRS)
    _, found = attacked(parts, plain)
    norm, expected = mean_norm(parts, plain), torch.zeros_like(found)
    for _ in range(2):
        leaf = expected.requires_grad_()
        (gradient,) = torch.autograd.grad(misses(parts, plain, leaf).sum(), leaf)
        expected = expected.detach().clone()
        for i in range(PAIRS):
            for p in range(1, int(plain.lengths[0, i]) - 1):
                way = expected[i, p] + 0.3 * norm / expected.shape[2] ** 0.5 * gradient[i, p].sign()
                expected[i, p] = way * min(1.0, float(0.5 * norm / way.norm()))
    assert ((found - expected).abs() < 1e-4).float().mean() > 0.995  # a slope that is next to nothing


@pytest.mark.parametrize("steps", [1, 3])
def test_tokens_stay_in_the_ball_and_hurt_more_than_noise(monkeypatch, steps):
    parts = parts_of(monkeypatch, f"{{epsilon: 0.5, steps: {steps}}}")
    batch, found = attacked(parts, batch_for(parts.recipe, PAIRS))
    lengths, radius = found.norm(dim=2), 0.5 * mean_norm(parts, batch)
    assert lengths.max() <= radius * (1 + 1e-4)
    places = torch.arange(batch.tokens.shape[2])
    still = (places == 0) | (places >= batch.lengths[0][:, None] - 1)
    assert (lengths[still] == 0).all()
    assert lengths[~still].mean() > 0.9 * radius
    noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    noise = functional.normalize(noise, dim=2) * lengths[..., None]
    before, after, shaken = (misses(parts, batch, way).sum() for way in (torch.zeros_like(found), found, noise))
    assert after - before > 2 * (shaken - before).abs()


def test_the_objective_sees_clean_and_moved_captions(monkeypatch):
    parts = parts_of(monkeypatch, "{epsilon: 0.5, adversarial_weight: 2.0}")
    plain = batch_for(parts.recipe, PAIRS)
    _, offsets = attacked(parts, plain)
    image = parts.towers.embed_images(parts.augment(plain.images, plain.draws)[0])
    scale, expected = parts.towers.scale.item(), []
    for way in (torch.zeros_like(offsets), offsets):
        logits = scale * image @ embedded(parts, plain, way).T
        labels = torch.arange(PAIRS)
        both = functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)
        expected.append(both.item() / 2)
    report, _ = one_step(parts, plain, 0)
    found = [report["loss/clip"].item(), report["loss/adversarial_texts/clip"].item()]
    assert found == pytest.approx(expected, rel=1e-4)
    assert report["loss"].item() == pytest.approx(expected[0] + 2 * expected[1], rel=1e-4)


def test_wrong_captions_are_not_taken_for_moved_ones(monkeypatch):
    negatives = ("objective.clip_negatives={}", "strategies.hard_negatives={}", "data.captions.negatives={count: 2}")
    parts = parts_of(monkeypatch, "{}", *negatives)
    with_it, _ = one_step(parts, batch_for(parts.recipe, PAIRS), 0)
    without, _ = one_step(
        small_parts(monkeypatch, small_recipe("vitb32_clip", *PLAIN, *negatives)), batch_for(parts.recipe, PAIRS), 0
    )
    for name in ("loss/clip", "loss/clip_negatives"):
        assert with_it[name].item() == pytest.approx(without[name].item(), rel=1e-5)


def test_a_step_of_the_attack_costs_a_pass_of_the_text_tower(monkeypatch):
    parts = parts_of(monkeypatch, "{steps: 3}")
    calls = []
    parts.towers.core.text.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    one_step(parts, batch_for(parts.recipe, PAIRS), 0)
    assert calls == [False, True, True, True, True]  # what it aims at, three steps, both views together


def test_no_parameter_gets_a_gradient_from_the_attack(monkeypatch):
    parts = parts_of(monkeypatch)
    attacked(parts, batch_for(parts.recipe, PAIRS))
    assert all(parameter.grad is None for parameter in parts.towers.parameters())
    assert parts.towers.training


@pytest.mark.filterwarnings("ignore:model.freeze")
def test_a_locked_text_tower_is_refused(monkeypatch):
    with pytest.raises(RecipeError, match="text tower is locked"):
        parts_of(monkeypatch, "{}", "model.freeze=[text]")


@pytest.mark.parametrize("settings", [{"epsilon": 0.0}, {"steps": 0}, {"step_size": 0.0}, {"adversarial_weight": 0.0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="must be positive"):
        AdversarialTexts(**settings)


def test_micro_batches_equal_one_pass():
    case = "vitb32_clip", ("strategies.adversarial_texts={steps: 2, epsilon: 0.3}", STEADY)
    assert_alike(steps_of(*case, micro_batches=4), steps_of(*case))


def test_resume_equals_no_interruption(tmp_path):
    assert_resumes(recipe_of(tmp_path, "strategies.adversarial_texts={steps: 2}", "train.micro_batches=2"))


def test_captions_with_learned_tokens_are_refused(monkeypatch):
    with pytest.raises(RecipeError, match=r"model\.tune: learned tokens have ids below zero too"):
        parts_of(monkeypatch, "{}", "model.tune={type: prompts, text: 2}", "model.image.patch_dropout=0.0")
