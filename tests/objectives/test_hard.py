"""HardTerm against a slow reading of the paper, and its two ends: softmax contrast and a single negative."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit, value_of
from vlp.objectives.clip import ClipTerm
from vlp.objectives.hard import HardTerm

VARIANTS = [{"fraction": 0.4}, {"fraction": 1.0, "mask_duplicates": True}]


def hard_by_hand(image, text, scale, fraction, captions=None):
    """Keep the most similar negatives of each anchor, then softmax contrast."""
    size, total = len(image), 0.0
    captions = range(size) if captions is None else captions
    count = max(1, round(fraction * (size - 1)))
    for i in range(size):
        for own, other in ((image, text), (text, image)):
            logits = [scale * float(own[i] @ other[j]) for j in range(size)]
            negatives = sorted((logits[j] for j in range(size) if captions[j] != captions[i]), reverse=True)[:count]
            total += math.log(sum(math.exp(logit) for logit in [logits[i], *negatives])) - logits[i]
    return total / (2 * size)


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("fraction", [0.01, 0.4, 1.0])
def test_matches_paper(size, fraction):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    expected = hard_by_hand(image, text, 10.0, fraction)
    assert value_of(HardTerm(fraction=fraction), image, text) == pytest.approx(expected, rel=1e-10)


def test_all_negatives_make_it_clip():
    leaves = draw_leaves(9)
    assert share_of(HardTerm(fraction=1), pairs_of(*leaves)).item() == pytest.approx(value_of(ClipTerm(), *leaves[:2]))
    torch.testing.assert_close(gradients_of(HardTerm(fraction=1), leaves), gradients_of(ClipTerm(), leaves))


def test_one_negative_costs_the_softplus_of_its_margin():
    image, text = unit(9, 6, 1), unit(9, 6, 2)
    logits = 10 * image @ text.T
    wrong = logits.masked_fill(torch.eye(9, dtype=torch.bool), -math.inf)
    margins = torch.stack([wrong.amax(1), wrong.amax(0)]) - logits.diagonal()
    expected = torch.nn.functional.softplus(margins).mean().item()
    assert value_of(HardTerm(fraction=1e-3), image, text) == pytest.approx(expected, rel=1e-10)


def test_easy_negatives_get_no_gradient():
    """An image is moved by its own text, by the text hardest for it, and by texts for which it is the hardest."""
    leaves = draw_leaves(9)
    image, text, scale, _ = leaves
    logits = (scale * image @ text.T).detach()
    wrong = logits.masked_fill(torch.eye(9, dtype=torch.bool), -math.inf)
    chosen = torch.zeros(9, 9, dtype=torch.bool)
    chosen[torch.arange(9), wrong.argmax(1)] = True
    by_column = torch.zeros(9, 9, dtype=torch.bool)
    by_column[wrong.argmax(0), torch.arange(9)] = True
    pushes = wrong.where(chosen, -math.inf), wrong.where(by_column, -math.inf)
    shares = [(push - logits.diagonal().unsqueeze(1 - axis)).sigmoid() for axis, push in enumerate(pushes)]
    pull = shares[0].sum(1) + shares[1].sum(0)
    expected = scale * ((shares[0] + shares[1]) @ text - pull[:, None] * text) / 18
    torch.testing.assert_close(gradients_of(HardTerm(fraction=1e-3), leaves)[0], expected)


def test_equal_captions_are_no_negatives():
    image, text = unit(6, 6, 1), unit(6, 6, 2)
    captions = torch.tensor([0, 1, 0, 2, 1, 0])
    term = HardTerm(fraction=0.8, mask_duplicates=True)
    expected = hard_by_hand(image, text, 10.0, 0.8, captions.tolist())
    assert value_of(term, image, text, caption_ids=captions) == pytest.approx(expected, rel=1e-10)


def test_a_batch_of_one_caption_costs_nothing_and_moves_nothing():
    leaves = draw_leaves(4)
    term, captions = HardTerm(mask_duplicates=True), torch.zeros(4).long()
    assert share_of(term, pairs_of(*leaves, caption_ids=captions)).item() == 0
    assert all(bool((g == 0).all()) for g in gradients_of(term, leaves, caption_ids=captions))


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_what_is_no_share_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        HardTerm(fraction=fraction)
