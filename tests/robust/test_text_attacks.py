"""Captions under attack: words that are moved, and words that are others."""

from __future__ import annotations

import pytest
import torch

from tests.robust.stages import captions_it_meets, encoder_of, model_that_learned, opened, plan_of, record_of, shares
from tests.towers.test_borrowed import clipseg, write
from vlp.ground.types import RecipeError
from vlp.robust.caption_words import changeable, common_words, exchanged, left_out
from vlp.towers.borrowed import BorrowedModel


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return captions_it_meets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def encoder():
    return encoder_of(model_that_learned())


def test_moved_words_stay_within_their_radius_and_find_less(task, encoder):
    stage = opened(task, encoder)
    plan = plan_of("text_embedding", 0.0, 0.2, 0.8, radii=(0.0, 0.2, 0.8), steps=6)
    outcomes = [each.attack.change(stage.stage, each.radius) for each in plan]
    torch.testing.assert_close(outcomes[0].rows, stage.scorer.texts, atol=1e-5, rtol=0)
    assert outcomes[0].distance.max() == 0
    assert 0.19 < outcomes[1].distance.max() <= 0.2 + 1e-4
    record = record_of(stage, plan)
    left = shares(record, "text_to_image_recall@1")
    assert left["text_embedding", 0.0] > left["text_embedding", 0.8]
    assert {gate["name"] for gate in record["gates"]} == {
        "not_above_clean",
        "falls_with_radius",
        "gradients_are_there",
        "within_ball",
    }
    assert all(gate["is_passed"] for gate in record["gates"])


def test_the_step_is_the_one_that_was_asked_for(task, encoder):
    stage = opened(task, encoder)
    (plan,) = plan_of("text_embedding", 0.5, radii=(0.5,), steps=1, step=0.1)
    found = plan.attack.change(stage.stage, 0.5)
    assert found.distance.max() == pytest.approx(0.05, rel=1e-3)  # a tenth of the radius


def by_hand(stage, caption, number, words):
    """Try every candidate where leaving a word out hurts most, one text at a time."""
    images = stage.shared.images(stage.data)
    image = int(stage.image_of_text[number])

    def margin(text):
        scores = stage.shared.scale * (stage.shared.encoder.embed_texts([text]) @ images.T)[0]
        others = torch.cat([scores[:image], scores[image + 1 :]])
        return float(others.max() - scores[image])

    place = max(changeable(caption), key=lambda each: margin(left_out(caption, each)))
    return max([caption, *(exchanged(caption, place, word) for word in words)], key=margin)


def test_one_word_is_the_worst_of_all(task, encoder):
    stage = opened(task, encoder).stage
    words = common_words(stage.evaluator.texts, 6)
    found = plan_of("one_word", 1.0, candidates=6)[0].attack.change(stage, 1.0)
    for number in (0, 5, 11):
        caption = stage.evaluator.texts[number]
        assert found.texts[number] == by_hand(stage, caption, number, words)
    assert set(found.distance.tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(found.rows, stage.shared.encoder.embed_texts(found.texts), atol=1e-5, rtol=0)


def test_examples_are_told_of_captions_that_were_written_into(task, encoder):
    record = record_of(opened(task, encoder), plan_of("one_word", 1.0, candidates=6))
    examples = record["attacks"][0]["examples"]
    assert examples
    assert set(examples[0]) == {"before", "after", "rank_before", "rank_after"}
    assert any(each["rank_after"] > each["rank_before"] for each in examples)


def test_words_that_nobody_sees_are_no_candidates():
    assert common_words(["A red dog.", "the dog and a cat", "of the Dog"], 2) == ("dog", "cat")
    assert changeable("the dog on the mat") == [1, 2, 4]
    assert changeable("of the") == [0, 1]
    assert exchanged("An apple, red", 1, "dog") == "A dog, red"
    assert left_out("a b c", 1) == "a c"


def test_a_model_whose_words_cannot_be_moved_is_named(task, tmp_path):
    write(tmp_path, clipseg)
    stage = opened(task, BorrowedModel(tmp_path).encoder("cpu", batch_size=8))
    with pytest.raises(RecipeError, match="one_word"):
        plan_of("text_embedding", 0.1, radii=(0.1,))[0].attack.change(stage.stage, 0.1)
    assert record_of(stage, plan_of("one_word", 1.0, candidates=2))["attacks"]
