"""ClipTerm against a slow reading of the paper, and the properties it promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.objectives.clip import ClipTerm

VARIANTS = [{"label_smoothing": 0.1, "text_share": 0.3}, {"mask_duplicates": True}]


def clip_by_hand(image, text, scale, text_share=0.5, smoothing=0.0, captions=None):
    """Figure 3 of the paper, one pair at a time; equal captions are not asked about."""
    size = len(image)
    total = 0.0
    for i in range(size):
        for query, keys, share in ((image[i], text, 1 - text_share), (text[i], image, text_share)):
            asked = [j for j in range(size) if captions is None or j == i or captions[j] != captions[i]]
            logits = {j: scale * float(query @ keys[j]) for j in asked}
            log_sum = math.log(sum(math.exp(logit) for logit in logits.values()))
            target = {j: smoothing / size + (1 - smoothing) * (j == i) for j in asked}
            total += share * sum(target[j] * (log_sum - logits[j]) for j in asked) / sum(target.values())
    return total / size


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("settings", [{}, {"text_share": 0.2}, {"label_smoothing": 0.1}])
def test_matches_paper(size, settings):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    by_hand = clip_by_hand(image, text, 10.0, settings.get("text_share", 0.5), settings.get("label_smoothing", 0.0))
    assert value_of(ClipTerm(**settings), image, text) == pytest.approx(by_hand, rel=1e-10)


def test_equal_captions_are_no_negatives():
    image, text = unit(6, 6, 1), unit(6, 6, 2)
    captions = torch.tensor([0, 1, 0, 2, 1, 0])
    value = value_of(ClipTerm(mask_duplicates=True), image, text, caption_ids=captions)
    assert value == pytest.approx(clip_by_hand(image, text, 10.0, captions=captions.tolist()), rel=1e-10)
    assert value < value_of(ClipTerm(), image, text)


def test_different_captions_need_no_mask():
    image, text = unit(6, 6, 1), unit(6, 6, 2)
    assert value_of(ClipTerm(mask_duplicates=True), image, text) == value_of(ClipTerm(), image, text)


def test_a_batch_of_one_caption_costs_nothing():
    image, text = unit(4, 6, 1), unit(1, 6, 2).repeat(4, 1)
    assert value_of(ClipTerm(mask_duplicates=True), image, text, caption_ids=torch.zeros(4).long()) == 0


def test_uninformative_embeddings_cost_log_n():
    same = torch.eye(1, 8).repeat(16, 1).double()
    assert value_of(ClipTerm(), same, same) == pytest.approx(math.log(16))


def test_simplex_is_the_floor():
    size, scale = 8, 5.0
    simplex = functional.normalize(torch.eye(size).double() - 1 / size, dim=1)
    floor = math.log(1 + (size - 1) * math.exp(-scale * size / (size - 1)))
    assert value_of(ClipTerm(), simplex, simplex, scale=scale) == pytest.approx(floor, rel=1e-10)


def test_cold_limit_is_the_worst_violation():
    image, text, scale = unit(9, 4, 1), unit(9, 4, 2), 1e5
    cosines = image @ text.T
    wrong = cosines.masked_fill(torch.eye(9, dtype=torch.bool), -torch.inf)
    worst = (wrong.amax(1) - cosines.diagonal()).clamp(min=0).mean() / 2
    worst += (wrong.amax(0) - cosines.diagonal()).clamp(min=0).mean() / 2
    assert value_of(ClipTerm(), image, text, scale=scale) / scale == pytest.approx(worst.item(), abs=1e-4)


def test_hot_limit_is_log_n_minus_a_difference_of_means():
    image, text, scale, size = unit(9, 4, 1), unit(9, 4, 2), 1e-4, 9
    cosines = image @ text.T
    others = cosines.sum() - cosines.trace()
    expected = math.log(size) - scale * ((size - 1) * cosines.trace() - others) / size**2
    assert value_of(ClipTerm(), image, text, scale=scale) == pytest.approx(expected.item(), abs=1e-7)


def test_pull_on_the_pair_equals_push_on_the_others():
    """The gradient of an image, seen along orthonormal texts, sums to zero."""
    leaves = [unit(6, 6, 1).requires_grad_(), torch.eye(6).double().requires_grad_(), *draw_leaves(1)[2:]]
    image, *_ = gradients_of(ClipTerm(text_share=0.0), leaves)
    assert image.sum(dim=1).tolist() == pytest.approx([0.0] * 6, abs=1e-12)


def test_tiny_losses_keep_their_digits_in_float32():
    image = torch.eye(16, 16)
    exact = math.log1p(15 * math.exp(-30))
    assert value_of(ClipTerm(), image, image, scale=30.0) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("settings", [{"text_share": 1.5}, {"label_smoothing": -0.1}])
def test_shares_outside_zero_to_one_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ClipTerm(**settings)


def test_smoothing_over_masked_captions_is_refused():
    with pytest.raises(ValueError, match="set one of them"):
        ClipTerm(label_smoothing=0.1, mask_duplicates=True)
