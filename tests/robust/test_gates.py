"""Each gate fails where it must: on attacks and models that are broken on purpose, and on no sound one."""

from __future__ import annotations

import pytest
import torch

from tests.robust.stages import classes_it_knows, encoder_of, gates_of, opened, plan_of, with_attack
from vlp.attacks.ball import into_ball
from vlp.robust.attack_file import AttackFile, AttackList
from vlp.robust.attacks.base import Attack
from vlp.robust.findings import Found
from vlp.robust.gates import GATES
from vlp.robust.planned_attacks import planned
from vlp.towers.encoder import TowerEncoder

ALL = {gate.__name__ for gate in GATES}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return classes_it_knows(tmp_path_factory.mktemp("sets"), 12)


def every_gate(*radii):
    """Return a plan that lets every gate be asked."""
    chosen = {"pgd": {"steps": 8}, "square": {"queries": 40}}
    file = AttackFile(version=1, radii=radii or (1, 4), unbounded=64, attacks=chosen)
    listed = tuple(plan_of(name, 1, **settings)[0].listed for name, settings in chosen.items())
    return planned(AttackList("a test", file, listed))


def failed(task, kind=TowerEncoder, plan=None):
    """Return the gates that fail of those that are asked."""
    found = gates_of(opened(task, encoder_of(kind=kind)), plan or every_gate())
    return {name for name, is_passed in found.items() if not is_passed}


def test_a_sound_model_and_sound_attacks_pass_every_gate(task):
    found = gates_of(opened(task), every_gate())
    assert found == dict.fromkeys(ALL, True)


class Rounding(TowerEncoder):
    """Sees eight shades of each colour, so that gradients are zero."""

    def embed_pixels(self, pixels):
        return super().embed_pixels((pixels * 7).round() / 7)

    def embed_images(self, images):
        with torch.inference_mode():
            return self.embed_pixels(torch.stack([self.plain_pixels(image) for image in images]))


class Misleading(Rounding):
    """Computes what any model would, and has gradients that lead the other way."""

    def embed_pixels(self, pixels):
        return TowerEncoder.embed_pixels(self, 2 * pixels.detach() - pixels)


class Saturated(TowerEncoder):
    """Has a temperature so low that float32 sees no difference."""

    @property
    def scale(self):
        return 1e6


class Noisy(TowerEncoder):
    """Says something else each time."""

    def embed_pixels(self, pixels):
        return super().embed_pixels(pixels + 0.01 * torch.randn_like(pixels))


def test_zero_gradients_are_noticed(task):
    assert {"gradients_are_there", "nothing_left_unbounded"} <= failed(task, Rounding)


def test_masked_gradients_are_noticed(task):
    assert {"nothing_left_unbounded", "nothing_found_blindly"} <= failed(task, Misleading, every_gate(48))


def test_a_softmax_without_gradients_is_noticed(task):
    assert "gradients_are_there" in failed(task, Saturated)


def test_a_model_that_is_not_the_one_that_is_evaluated_is_noticed(task):
    assert "zero_radius" in failed(task, Noisy)


class Broken(Attack):
    """Changes pixels by a function of these and the radius."""

    def __init__(self, change):
        self.change_pixels = change

    def perturb(self, problem, pixels, radius, ids):
        return Found(self.change_pixels(problem, pixels, radius))


def broken(change, *radii):
    return [with_attack(each, Broken(change)) for each in plan_of("pgd", *radii)]


def uphill(problem, pixels, radius):
    """Move far enough to be wrong, towards what the loss dislikes most."""
    _, gradient = problem.climb(pixels, lambda scores, right: -scores.masked_fill(~right, 0).sum(dim=1))
    return into_ball(pixels + radius * gradient.sign(), pixels, radius)


def test_an_attack_that_leaves_the_ball_is_noticed(task):
    assert "within_ball" in failed(task, plan=broken(lambda problem, pixels, radius: (pixels + 0.01).clamp(0, 1), 1))


def test_an_attack_that_leaves_the_picture_is_noticed(task):
    assert "within_ball" in failed(task, plan=broken(lambda problem, pixels, radius: pixels - radius, 1))


def test_an_attack_that_does_less_than_chance_is_noticed(task):
    idle = broken(lambda problem, pixels, radius: pixels, 40)
    lucky = [with_attack(each, Broken(uphill)) for each in plan_of("random_signs", 40)]
    assert failed(task, plan=[*idle, *lucky]) == {"beats_chance"}


def test_an_attack_that_does_less_with_more_is_noticed(task):
    plan = broken(lambda problem, pixels, radius: uphill(problem, pixels, 0.1 - radius), 1, 8)
    assert {"falls_with_radius"} <= failed(task, plan=plan)


def test_an_attack_that_helps_is_noticed(tmp_path):
    def downhill(problem, pixels, radius):
        for _ in range(10):
            _, gradient = problem.climb(pixels, lambda scores, right: scores.masked_fill(~right, 0).sum(dim=1))
            pixels = (pixels + 0.02 * gradient.sign()).clamp(0, 1)
        return pixels

    assert "not_above_clean" in failed(classes_it_knows(tmp_path, shift=1), plan=broken(downhill, 64))


def test_only_gates_that_can_be_asked_are(task):
    assert set(gates_of(opened(task), plan_of("pgd", 1, steps=2))) == {
        "not_above_clean",
        "gradients_are_there",
        "within_ball",
    }
