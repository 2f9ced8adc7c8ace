"""The teacher is the model at the start and sees clean images; the student sees what it would get most wrong."""

import math

import pytest
import torch

from tests.small_steps import batch_for, small_parts, small_recipe
from tests.strategies.layouts import assert_alike, steps_of
from tests.strategies.runs import STEADY, assert_resumes, recipe_of
from vlp.strategies.fare import Fare
from vlp.towers.plain_pixels import plain
from vlp.train import one_step

PAIRS = 8
LOSS = "objective={clip: {weight: 0.0}, feature_distillation: {}}"
CONTRAST = "objective={clip: {weight: 0.0}, feature_distillation: null, feature_contrast: {}}"
LOCKED = "model.freeze=[text, logit_scale]"
PLAIN = ("train.precision=float32", f"train.batch_size={PAIRS}", STEADY, LOSS, LOCKED)

pytestmark = pytest.mark.filterwarnings("ignore:model.freeze")  # the small text tower has no weights


def parts_of(monkeypatch, settings="{}", *overrides):
    recipe = small_recipe("vitb32_clip", f"strategies.fare={settings}", *PLAIN, *overrides)
    return small_parts(monkeypatch, recipe)


def test_the_loss_is_the_distance_of_changed_images_from_clean_ones_at_the_start(monkeypatch):
    parts = parts_of(monkeypatch)
    strategy, towers = parts.strategies["fare"], parts.towers
    before = {name: value.clone() for name, value in towers.state_dict().items()}
    one_step(parts, batch_for(parts.recipe, PAIRS, 0), 0)
    batch = batch_for(parts.recipe, PAIRS, 1)
    strategy.before_forward(batch)
    images = parts.augment(batch.images, batch.draws)
    changed = strategy.before_towers(images, batch)[0]
    embedded = towers.embed_images(changed).detach()
    report, _ = one_step(parts, batch, 1)
    towers.load_state_dict(before)
    with torch.no_grad():
        clean = towers.embed_images(images[0])
    by_hand = sum(float(((embedded[i] - clean[i]) ** 2).sum()) for i in range(PAIRS)) / PAIRS
    assert report["loss"].item() == pytest.approx(by_hand, rel=1e-5)
    assert torch.equal(strategy.weights()["core.visual.conv1.weight"], before["core.visual.conv1.weight"])


def test_changed_images_go_further_than_noise(monkeypatch):
    parts = parts_of(monkeypatch, "{epsilon: 4}")
    strategy, towers, batch = parts.strategies["fare"], parts.towers, batch_for(parts.recipe, PAIRS)
    strategy.before_forward(batch)
    images = parts.augment(batch.images, batch.draws)
    changed = strategy.before_towers(images, batch)
    assert changed.shape == images.shape
    gap = plain(changed[0], towers.preprocess_cfg) - plain(images[0], towers.preprocess_cfg)
    assert gap.abs().max() * 255 <= 4 + 1e-3
    noisy = images + 4 / 255 / images.new_tensor(towers.preprocess_cfg["std"])[:, None, None] * gap.sign().roll(1, 1)
    with torch.no_grad():
        clean, attacked, shaken = (towers.embed_images(pixels[0]) for pixels in (images, changed, noisy))
    assert (attacked - clean).norm() > 2 * (shaken - clean).norm()


def changed_by(attack, monkeypatch, micro_batches=1):
    """Return what a whole batch of the teacher's embeddings looks like, and where its images are after an attack."""
    parts = parts_of(monkeypatch, f"{{epsilon: 4, attack: {attack}}}", CONTRAST)
    strategy, towers, batch = parts.strategies["fare"], parts.towers, batch_for(parts.recipe, PAIRS)
    strategy.before_forward(batch)
    pieces = [
        strategy.before_towers(parts.augment(piece.images, piece.draws), piece)[0]
        for piece in batch.chunk(micro_batches)
    ]
    with torch.no_grad():
        clean = towers.embed_images(parts.augment(batch.images, batch.draws)[0])
        return clean, towers.embed_images(torch.cat(pieces)), towers.scale.item()


def contrasts(clean, changed, scale):
    """Return the contrast of each changed image with all clean ones, one number at a time."""
    logits = [[scale * float(changed[i] @ clean[j]) for j in range(PAIRS)] for i in range(PAIRS)]
    return [math.log(sum(math.exp(x - row[i]) for x in row)) for i, row in enumerate(logits)]


def test_an_attack_on_the_contrast_finds_more_of_it_and_less_distance(monkeypatch):
    found = {attack: changed_by(attack, monkeypatch) for attack in ("distance", "contrast")}
    contrast = {attack: sum(contrasts(*each)) for attack, each in found.items()}
    distance = {attack: float((clean - changed).norm()) for attack, (clean, changed, _) in found.items()}
    assert contrast["contrast"] > contrast["distance"] > 0
    assert distance["contrast"] < distance["distance"]


def test_the_contrast_is_with_the_whole_batch_in_pieces_too(monkeypatch):
    whole, pieces = (changed_by("contrast", monkeypatch, number)[1] for number in (1, 4))
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-4)


def test_the_contrast_of_changed_images_is_what_is_lowered(monkeypatch):
    parts = parts_of(monkeypatch, "{epsilon: 4, attack: contrast}", CONTRAST)
    clean, changed, scale = changed_by("contrast", monkeypatch)
    report, _ = one_step(parts, batch_for(parts.recipe, PAIRS), 0)
    assert report["loss"].item() == pytest.approx(sum(contrasts(clean, changed, scale)) / PAIRS, rel=1e-4)


def test_clean_images_may_stay_beside_changed_ones_by_weight(monkeypatch):
    parts = parts_of(monkeypatch, "{clean_weight: 0.5, adversarial_weight: 2.0, first_step: 1, probability: 0.6}")
    quiet, _ = one_step(parts, batch_for(parts.recipe, PAIRS, 0), 0)
    assert quiet["loss"].item() == pytest.approx(0, abs=1e-6)  # nothing is changed, and the model is its teacher
    report, _ = one_step(parts, batch_for(parts.recipe, PAIRS, 1), 1)
    clean, changed = report["loss/feature_distillation"], report["loss/fare/feature_distillation"]
    assert 0 < clean.item() < changed.item()
    assert report["loss"].item() == pytest.approx(0.5 * clean.item() + 2.0 * changed.item(), rel=1e-5)


@pytest.mark.parametrize("settings", [{"start": 0.0}, {"adversarial_weight": 0.0, "clean_weight": 1.0}])
def test_what_would_teach_nothing_is_refused(settings):
    with pytest.raises(ValueError, match="must be positive"):
        Fare(**settings)


@pytest.mark.parametrize(("attack", "loss"), [("distance", LOSS), ("contrast", CONTRAST)])
def test_micro_batches_equal_one_pass(attack, loss):
    case = "vitb32_clip", (f"strategies.fare={{steps: 2, attack: {attack}}}", STEADY, loss, LOCKED)
    assert_alike(steps_of(*case, micro_batches=2), steps_of(*case))


@pytest.mark.parametrize(("attack", "loss"), [("distance", LOSS), ("contrast", CONTRAST)])
def test_resume_equals_no_interruption(tmp_path, attack, loss):
    settings = (f"strategies.fare={{steps: 2, warmup_steps: 4, attack: {attack}}}", STEADY, loss, LOCKED)
    assert_resumes(recipe_of(tmp_path, *settings))


def test_the_papers_numbers_are_the_defaults():
    strategy = Fare()
    assert (strategy.radius * 255, strategy.step * 255, strategy.steps) == pytest.approx((2, 1, 10))
