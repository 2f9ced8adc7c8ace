"""What an adversary has made is not taken for something else: such combinations are refused before the first step."""

from __future__ import annotations

import pytest

from tests.small_steps import batch_for, small_parts, small_recipe
from vlp.ground.types import RecipeError
from vlp.train import one_step

PLAIN = ("train.precision=float32", "train.batch_size=4")
SHORT = "strategies.short_first={tokens: 6, steps: 1}"
WORDS = ("strategies.adversarial_words={}", "data.text_views={said: {count: 2, synonyms: 0.5}}")
CROPS = ("strategies.local_to_global={size: 16, count: 2}", "objective.self_distillation={}")
PLACES = ("strategies.dense_teacher={}", "objective.pixpro={}", "data.views={second: {scale: [0.2, 1.0]}}")
LEFT_TO_TERMS = ("strategies.adversarial_images={adversarial_weight: 0}", "objective.mv_infonce={}")


def step_of(monkeypatch, *overrides):
    recipe = small_recipe("vitb32_clip", *PLAIN, *overrides)
    return one_step(small_parts(monkeypatch, recipe), batch_for(recipe, 4), 0)[0]


@pytest.mark.parametrize("attack", ["strategies.adversarial_images={}", "strategies.adversarial_texts={}", WORDS])
def test_captions_are_cut_before_they_are_attacked(monkeypatch, attack):
    attack = (attack,) if isinstance(attack, str) else attack
    assert step_of(monkeypatch, SHORT, *attack)["loss"].isfinite()
    with pytest.raises(RecipeError, match=r"strategies\.short_first: changes captions that strategies\.adversarial_"):
        step_of(monkeypatch, *attack, SHORT)


def test_wordings_are_chosen_before_tokens_have_names(monkeypatch):
    assert step_of(monkeypatch, *WORDS, "strategies.adversarial_texts={}")["loss"].isfinite()
    with pytest.raises(RecipeError, match=r"strategies\.adversarial_words: .* list adversarial_texts behind"):
        step_of(monkeypatch, "strategies.adversarial_texts={}", *WORDS)


@pytest.mark.parametrize("adversary", [("strategies.adversarial_images={}",), LEFT_TO_TERMS])
@pytest.mark.parametrize("counting", [CROPS, PLACES])
def test_changed_images_beside_clean_ones_are_no_crops_and_no_views_of_the_data(monkeypatch, adversary, counting):
    for overrides in ((*adversary, *counting), (*counting, *adversary)):
        with pytest.raises(RecipeError, match=r"adversarial_images: .* (crops behind|first two of) the views: set"):
            step_of(monkeypatch, *overrides)
    alone = "strategies.adversarial_images={clean_weight: 0}"
    assert step_of(monkeypatch, alone, *counting)["loss"].isfinite()
