"""Of several wordings the one is trained on that the model misses by the most."""

import pytest
import torch

from tests.small_steps import batch_for, small_parts, small_recipe
from tests.strategies.layouts import assert_alike, steps_of
from tests.strategies.runs import STEADY, assert_resumes, recipe_of
from vlp.ground.types import RecipeError
from vlp.strategies.adversarial_words import AdversarialWords
from vlp.train import one_step

PAIRS, WORDINGS = 8, 3
VIEWS = f"data.text_views={{synonyms: {{count: {WORDINGS}, synonyms: 1.0}}}}"
PLAIN = ("train.precision=float32", f"train.batch_size={PAIRS}", STEADY)
NEGATIVES = ("objective.clip_negatives={}", "strategies.hard_negatives={}", "data.captions.negatives={count: 2}")


def parts_of(monkeypatch, *overrides):
    recipe = small_recipe("vitb32_clip", "strategies.adversarial_words={}", VIEWS, *PLAIN, *overrides)
    return small_parts(monkeypatch, recipe)


def test_the_wording_that_is_missed_by_the_most_is_kept_and_the_others_are_dropped(monkeypatch):
    parts = parts_of(monkeypatch, *NEGATIVES)
    batch, towers = batch_for(parts.recipe, PAIRS), parts.towers
    chosen = parts.strategies["adversarial_words"].before_forward(batch)
    assert len(chosen.tokens) == len(chosen.lengths) == 1 + 1 + 2
    for kept, before in ((0, 0), (2, 4), (3, 5)):
        assert torch.equal(chosen.tokens[kept], batch.tokens[before])
    with torch.no_grad(), towers.at_rest():
        texts = [towers.embed_tokens(batch.tokens[k], batch.lengths[k].numpy()) for k in range(1 + WORDINGS)]
    for i in range(PAIRS):
        losses = []
        for k in range(1, 1 + WORDINGS):
            logits = towers.scale.detach() * texts[0] @ texts[k][i]
            losses.append(float(logits[torch.arange(PAIRS) != i].logsumexp(0) - logits[i]))
        worst = 1 + losses.index(max(losses))
        assert torch.equal(chosen.tokens[1, i], batch.tokens[worst, i])
        assert chosen.lengths[1, i] >= batch.lengths[worst, i]


def test_longer_lengths_than_those_of_the_chosen_change_nothing(monkeypatch):
    parts = parts_of(monkeypatch)
    batch = parts.strategies["adversarial_words"].before_forward(batch_for(parts.recipe, PAIRS))
    ends = 1 + batch.tokens[1].argmax(dim=1)
    assert (batch.lengths[1] > ends).any()
    with torch.no_grad(), parts.towers.at_rest():
        found, exact = (
            parts.towers.embed_tokens(batch.tokens[1], lengths.numpy()) for lengths in (batch.lengths[1], ends)
        )
    torch.testing.assert_close(found, exact)


def test_the_objective_sees_captions_and_chosen_wordings(monkeypatch):
    parts = parts_of(monkeypatch, *NEGATIVES)
    report, _ = one_step(parts, batch_for(parts.recipe, PAIRS), 0)
    terms = ["loss/clip", "loss/clip_negatives", "loss/adversarial_words/clip", "loss/adversarial_words/clip_negatives"]
    assert report["loss"].item() == pytest.approx(sum(report[name].item() for name in terms), rel=1e-5)


def test_micro_batches_equal_one_pass():
    case = "vitb32_clip", ("strategies.adversarial_words={}", VIEWS, STEADY)
    assert_alike(steps_of(*case, micro_batches=2), steps_of(*case))


def test_without_wordings_it_is_refused(monkeypatch):
    with pytest.raises(RecipeError, match=r"adversarial_words: there is nothing to choose from: set data\.text_views"):
        small_parts(monkeypatch, small_recipe("vitb32_clip", "strategies.adversarial_words={}"))


def test_a_weight_of_nothing_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        AdversarialWords(adversarial_weight=0.0)


def test_resume_equals_no_interruption(tmp_path):
    assert_resumes(recipe_of(tmp_path, "strategies.adversarial_words={}", VIEWS, "train.micro_batches=2"))
