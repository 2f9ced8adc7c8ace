"""Changed images lie where they may, hurt more than noise does, and follow from seed, step and sample alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.objectives.batches import one, pairs_of
from tests.objectives.cases import build
from tests.small_steps import batch_for, small_parts, small_recipe
from tests.strategies.runs import assert_resumes, recipe_of
from vlp.attacks.ball import PIXEL_STEP
from vlp.ground.types import RecipeError
from vlp.objectives.base import Objective
from vlp.step.kept_bytes import KeptBytes
from vlp.strategies.adversarial_images import AdversarialImages
from vlp.strategies.anchors import embed_anchors
from vlp.strategies.base import Strategy
from vlp.towers.plain_pixels import plain
from vlp.train import autocast, embed, one_step

PAIRS = 8
PLAIN = ("train.precision=float32", f"train.batch_size={PAIRS}", "model.image.patch_dropout=0.5")


def parts_of(monkeypatch, settings="{}", *overrides):
    recipe = small_recipe("vitb32_clip", f"strategies.adversarial_images={settings}", *PLAIN, *overrides)
    return small_parts(monkeypatch, recipe)


def change(parts, batch):
    """Return clean and changed pixels in [0, 1]."""
    strategy = parts.strategies["adversarial_images"]
    batch = strategy.before_forward(batch)
    images = parts.augment(batch.images, batch.draws)
    shown = strategy.before_towers(images, batch)
    return plain(images[0], parts.towers.preprocess_cfg), plain(shown[-1], parts.towers.preprocess_cfg)


def misses(parts, batch, pixels):
    """Return by how much wrong captions are nearer than the right one, a pair at a time."""
    prepared, towers = parts.towers.preprocess_cfg, parts.towers
    mean, std = (torch.tensor(prepared[key])[:, None, None] for key in ("mean", "std"))
    found = []
    with towers.at_rest():
        image = towers.embed_images((pixels - mean) / std)
        text = towers.embed_tokens(batch.tokens[0], batch.lengths[0].numpy()).detach()
    for i in range(len(image)):
        logits = [towers.scale.detach() * image[i] @ text[j] for j in range(len(text))]
        wrong = sum(logit.exp() for j, logit in enumerate(logits) if batch.caption_ids[j] != batch.caption_ids[i])
        right = sum(logit.exp() for j, logit in enumerate(logits) if batch.caption_ids[j] == batch.caption_ids[i])
        found.append(wrong.log() - right.log())
    return torch.stack(found)


def batch_of(parts, seed=0):
    return batch_for(parts.recipe, PAIRS, seed)


# ---------------------------------------- the attack
def test_two_steps_are_those_of_a_slow_reading(monkeypatch):
    parts = parts_of(monkeypatch, "{epsilon: 4, steps: 2, step_size: 3, start: 0.0}")
    batch = batch_of(parts)
    batch = replace(batch, caption_ids=batch.caption_ids.index_fill(0, torch.tensor([1]), int(batch.caption_ids[0])))
    clean, found = change(parts, batch)
    expected = clean.clone()
    for _ in range(2):
        leaf = expected.requires_grad_()
        (gradient,) = torch.autograd.grad(misses(parts, batch, leaf).sum(), leaf)
        moved = expected.detach() + 3 / 255 * gradient.sign()
        expected = moved.clamp(clean - 4 / 255, clean + 4 / 255).clamp(0, 1)
    same = (found - expected).abs() < 1e-5
    assert same.float().mean() > 0.999  # the sign of a slope that is next to nothing is rounding


def test_a_step_against_sigmoid_contrast_is_that_of_a_slow_reading(monkeypatch):
    parts = parts_of(monkeypatch, "{epsilon: 4, step_size: 3, start: 0.0, contrast: sigmoid}", "model.init_bias=-3")
    batch = batch_of(parts)
    batch = replace(batch, caption_ids=batch.caption_ids.index_fill(0, torch.tensor([1]), int(batch.caption_ids[0])))
    clean, found = change(parts, batch)
    towers, prepared = parts.towers, parts.towers.preprocess_cfg
    mean, std = (torch.tensor(prepared[key])[:, None, None] for key in ("mean", "std"))
    leaf = clean.clone().requires_grad_()
    with towers.at_rest():
        image = towers.embed_images((leaf - mean) / std)
        text = towers.embed_tokens(batch.tokens[0], batch.lengths[0].numpy()).detach()
    total = 0.0
    for i in range(PAIRS):
        for j in range(PAIRS):
            sign = 1 if batch.caption_ids[i] == batch.caption_ids[j] else -1
            total = total - (1 / (1 + (-sign * (towers.scale.detach() * image[i] @ text[j] - 3)).exp())).log()
    (gradient,) = torch.autograd.grad(total, leaf)
    expected = (clean + 3 / 255 * gradient.sign()).clamp(0, 1)
    assert ((found - expected).abs() < 1e-5).float().mean() > 0.999


@pytest.mark.parametrize("steps", [1, 5])
def test_changed_images_lie_in_the_ball_and_hurt_more_than_noise(monkeypatch, steps):
    parts = parts_of(monkeypatch, f"{{epsilon: 8, steps: {steps}}}")
    batch = batch_of(parts)
    clean, found = change(parts, batch)
    assert (found - clean).abs().max() <= 8 * PIXEL_STEP + 1e-6
    assert found.min() >= -1e-6
    assert found.max() <= 1 + 1e-6
    noise = torch.randint(0, 2, clean.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noisy = (clean + 8 * PIXEL_STEP * noise).clamp(0, 1)
    before, attacked, shaken = (misses(parts, batch, pixels).sum() for pixels in (clean, found, noisy))
    assert attacked - before > 3 * (shaken - before).abs()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_finds_the_way_uphill_too(monkeypatch, precision):
    found = {}
    for name in (precision, "float32"):
        parts = parts_of(monkeypatch, "{epsilon: 8, steps: 3}", f"train.precision={name}")
        with autocast(parts):
            clean, found[name] = change(parts, batch_of(parts))
    before, half, whole = (misses(parts, batch_of(parts), each).sum() for each in (clean, *found.values()))
    assert half - before > 0.9 * (whole - before) > 0


def test_images_follow_from_seed_epoch_and_sample_alone(monkeypatch):
    parts = parts_of(monkeypatch, "{steps: 2, probability: 0.7}")
    batch = batch_of(parts)
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    _, found = change(parts, batch)
    shuffled = replace(
        batch,
        **{name: getattr(batch, name)[:, order] for name in ("images", "tokens", "lengths", "draws")},
        **{name: getattr(batch, name)[order] for name in ("ids", "caption_ids")},
    )
    torch.manual_seed(123)  # which nobody asks
    _, again = change(parts, shuffled)
    assert ((again - found[order]).abs() < 1e-5).float().mean() > 0.999
    _, other = change(parts, replace(batch, draws=batch.draws.roll(1, dims=2)))
    assert not torch.allclose(other, found, atol=1e-3)


def test_a_share_of_the_samples_is_spared_bit_for_bit(monkeypatch):
    parts = parts_of(monkeypatch, "{probability: 0.5}")
    strategy = parts.strategies["adversarial_images"]
    batch = strategy.before_forward(batch_for(parts.recipe, 64))
    images = parts.augment(batch.images, batch.draws)
    shown = strategy.before_towers(images, batch)
    spared = (shown[1] == images[0]).flatten(1).all(dim=1)
    assert 16 < spared.sum() < 48
    assert torch.equal(shown[0], images[0])


def test_epsilon_grows_from_the_first_step_and_attacks_end_at_the_last(monkeypatch):
    parts = parts_of(monkeypatch, "{epsilon: 4, start: 0.0, first_step: 1, warmup_steps: 2, last_step: 4}")
    strategy, batch, found = parts.strategies["adversarial_images"], batch_of(parts), []
    images = parts.augment(batch.images, batch.draws)
    for _ in range(5):
        clean = plain(images[0], parts.towers.preprocess_cfg)
        shown = strategy.before_towers(images, strategy.before_forward(batch))
        found.append((plain(shown[-1], parts.towers.preprocess_cfg) - clean).abs().max().item() * 255)
        strategy.after_step(parts.towers)
    assert found == pytest.approx([0, 2, 4, 4, 0], abs=1e-3)


def test_the_only_caption_of_a_batch_still_says_where_uphill_is(monkeypatch):
    parts = parts_of(monkeypatch)
    batch = batch_of(parts)
    clean, found = change(parts, replace(batch, caption_ids=torch.zeros_like(batch.caption_ids)))
    assert found.isfinite().all()
    assert (found - clean).abs().max() > PIXEL_STEP


def test_no_parameter_gets_a_gradient_from_the_attack(monkeypatch):
    parts = parts_of(monkeypatch)
    change(parts, batch_of(parts))
    assert all(parameter.grad is None for parameter in parts.towers.parameters())
    assert parts.towers.training
    assert parts.towers.core.visual.training


# ---------------------------------------- what it costs
@pytest.mark.parametrize(("steps", "clean_weight", "passes"), [(1, 1.0, 3), (3, 1.0, 5), (1, 0.0, 2), (3, 0.0, 4)])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_costs_a_pass_for_each_step_of_the_attack(monkeypatch, steps, clean_weight, passes, micro_batches):
    parts = parts_of(monkeypatch, f"{{steps: {steps}, clean_weight: {clean_weight}}}", "train.micro_batches=1")
    parts.micro_batches._numbers = {0: micro_batches}
    seen = []
    parts.towers.core.visual.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    one_step(parts, batch_of(parts), 0)
    again = (1 + (clean_weight > 0)) * (micro_batches > 1)  # micro-batches embed everything twice, but attack once
    assert sum(seen) == (passes + again) * PAIRS


# ---------------------------------------- what the objective sees
def test_the_loss_is_the_weighted_sum_of_clean_and_changed(monkeypatch):
    settings = "{clean_weight: 0.25, adversarial_weight: 2.0}"
    parts = parts_of(monkeypatch, settings, "model.image.patch_dropout=0.0", "objective.siglip={weight: 0.5}")
    batch = batch_of(parts)
    report, _ = one_step(parts, batch, 0)
    expected = {}
    parts = parts_of(monkeypatch, settings, "model.image.patch_dropout=0.0")
    embeddings = embed(parts, parts.strategies["adversarial_images"].before_forward(batch))
    for label, image in (("", embeddings.image), ("adversarial_images/", embeddings.image_views[0])):
        for name in ("clip", "siglip"):
            objective = Objective({name: (build(name, {}), one)})
            pairs = pairs_of(image, embeddings.text, embeddings.scale, embeddings.bias)
            expected[label + name] = objective(pairs, 0)[0].item()
    for name, value in expected.items():
        assert report[f"loss/{name}"].item() == pytest.approx(value, rel=1e-5)
    total = sum(
        weight * (expected[f"{label}clip"] + 0.5 * expected[f"{label}siglip"])
        for label, weight in (("", 0.25), ("adversarial_images/", 2.0))
    )
    assert report["loss"].item() == pytest.approx(total, rel=1e-5)
    assert expected["adversarial_images/clip"] > expected["clip"]


def test_without_clean_images_the_changed_ones_take_their_place_and_teachers_see_clean_ones(monkeypatch):
    parts = parts_of(monkeypatch, "{clean_weight: 0.0, adversarial_weight: 3.0}", "model.image.patch_dropout=0.0")
    seen = []
    parts.strategies["spy"] = spy = Strategy()
    spy.after_forward = lambda images, batch, embeddings: seen.append(images) or embeddings
    batch = batch_of(parts)
    report, _ = one_step(parts, batch, 0)
    assert report["loss"].item() == pytest.approx(3 * report["loss/clip"].item(), rel=1e-6)
    torch.testing.assert_close(seen[0], parts.augment(batch.images, batch.draws))


def test_before_the_first_step_nothing_is_different(monkeypatch):
    waiting = parts_of(monkeypatch, "{first_step: 9}")
    report, norms = one_step(waiting, batch_of(waiting), 0)
    without = small_parts(monkeypatch, small_recipe("vitb32_clip", *PLAIN))
    expected, expected_norms = one_step(without, batch_of(waiting), 0)
    assert (report, norms) == (expected, expected_norms)


def test_a_term_that_reads_views_sees_clean_and_changed_together(monkeypatch):
    parts = parts_of(monkeypatch, "{}", "objective.mv_infonce={}", "model.image.patch_dropout=0.0")
    batch = batch_of(parts)
    embeddings = embed(parts, parts.strategies["adversarial_images"].before_forward(batch))
    term = Objective({"term": (build("mv_infonce", {}), one)})
    numbers = (embeddings.text, embeddings.scale, embeddings.bias)
    (changed,) = embeddings.image_views
    together = term(pairs_of(embeddings.image, *numbers, image_views=(changed,)), 0)[0].item()
    alone = term(pairs_of(changed, *numbers), 0)[0].item()
    report, _ = one_step(parts, batch, 0)
    assert report["loss/mv_infonce"].item() == pytest.approx(together, rel=1e-5)
    assert report["loss/adversarial_images/mv_infonce"].item() == pytest.approx(alone, rel=1e-5)


def test_left_to_such_terms_alone_there_is_one_reading(monkeypatch):
    parts = parts_of(monkeypatch, "{adversarial_weight: 0.0}", "objective.mv_infonce={}")
    report, _ = one_step(parts, batch_of(parts), 0)
    assert not any("adversarial" in name for name in report)
    with pytest.raises(RecipeError, match=r"strategies\.adversarial_images: no term of clip reads further views"):
        parts_of(monkeypatch, "{adversarial_weight: 0.0}")


# ---------------------------------------- settings, runs
@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": 0.0},
        {"steps": 0},
        {"step_size": 0.0},
        {"start": 1.5},
        {"probability": 0.0},
        {"first_step": 5, "last_step": 5},
        {"clean_weight": 0.0, "adversarial_weight": 0.0},
        {"clean_weight": -1.0},
    ],
)
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"must|say nothing"):
        AdversarialImages(**settings)


@pytest.mark.parametrize(("steps", "share"), [(1, 1.25), (2, 1.25), (10, 0.25)])
def test_the_step_fits_the_number_of_steps(steps, share):
    assert AdversarialImages(epsilon=4, steps=steps).step == pytest.approx(share * 4 / 255)


@pytest.mark.filterwarnings("ignore:model.freeze")
def test_a_locked_image_tower_is_refused(monkeypatch):
    with pytest.raises(RecipeError, match="image tower is locked"):
        parts_of(monkeypatch, "{}", "model.freeze=[visual]")


def test_the_log_has_epsilon(monkeypatch):
    parts = parts_of(monkeypatch, "{epsilon: 4, warmup_steps: 8}")
    one_step(parts, batch_of(parts), 0)
    assert parts.gauges()["adversarial_images/epsilon"] == pytest.approx(1.0)


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_log_has_no_epsilon_where_nothing_is_attacked(monkeypatch, warmup):
    parts = parts_of(monkeypatch, f"{{epsilon: 4, first_step: 3, last_step: 5, warmup_steps: {warmup}}}")
    found = []
    for step in range(6):
        one_step(parts, batch_of(parts, step), step)
        found.append(parts.gauges()["adversarial_images/epsilon"])
    assert [number > 0 for number in found] == [False, False, False, True, True, False]
    assert min(found) == 0


def test_a_text_of_the_same_image_is_none_of_the_wrong_ones(monkeypatch):
    parts = parts_of(monkeypatch)
    batch = batch_of(parts)
    batch = replace(batch, ids=batch.ids.index_fill(0, torch.tensor([4]), int(batch.ids[2])))
    right = embed_anchors(parts.towers, batch).right(batch)
    assert right.nonzero().tolist() == sorted([[k, k] for k in range(PAIRS)] + [[2, 4], [4, 2]])
    assert math.isfinite(right.float().sum())


def test_resume_equals_no_interruption(tmp_path):
    settings = "{steps: 2, probability: 0.6, first_step: 1, warmup_steps: 4}"
    assert_resumes(recipe_of(tmp_path, f"strategies.adversarial_images={settings}", "train.micro_batches=2"))


class MostKept(KeptBytes):
    """Remembers the most that was kept at a time."""

    most = 0

    def _keep(self, value):
        kept = super()._keep(value)
        self.most = max(self.most, self.bytes)
        return kept


def test_more_steps_of_an_attack_keep_no_more_and_nothing_afterwards(monkeypatch):
    kept = {}
    for steps in (1, 5):
        parts = parts_of(monkeypatch, f"{{steps: {steps}}}")
        for pairs in (PAIRS // 2, PAIRS):
            kept[steps, pairs] = MostKept(math.inf, parts.towers.parameters())
            with kept[steps, pairs]:
                change(parts, batch_of(parts).narrow(0, pairs))
    assert all(each.bytes == 0 for each in kept.values())
    assert kept[5, PAIRS].most == kept[1, PAIRS].most > 10_000
    assert kept[1, PAIRS // 2].most < 0.6 * kept[1, PAIRS].most  # as in micro-batches
