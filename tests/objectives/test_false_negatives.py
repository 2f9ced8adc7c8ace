"""FalseNegativesTerm against a slow reading of each weighting, and its limits."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit, value_of
from vlp.objectives.clip import ClipTerm
from vlp.objectives.false_negatives import FalseNegativesTerm

VARIANTS = [
    {"weighting": "threshold", "strength": 0.2},
    {"weighting": "fade"},
    {"weighting": "disagreement", "strength": 3.0},
]

WEIGHTS = {
    "threshold": lambda cosine, strength: float(cosine < strength),
    "fade": lambda cosine, strength: 1 - max(0.0, cosine) ** strength,
    "disagreement": lambda cosine, strength: math.exp(strength * (1 - cosine)),
}


def slow_reading(image, text, scale, reference, captions, weighting, strength):
    size, total = len(image), 0.0
    for own, other in ((image, text), (text, image)):
        for i in range(size):
            right = math.exp(scale * float(own[i] @ other[i]))
            wrong = 0.0
            for j in range(size):
                if captions[i] != captions[j]:
                    weight = WEIGHTS[weighting](float(reference[i] @ reference[j]), strength)
                    wrong += weight * math.exp(scale * float(own[i] @ other[j]))
            total -= math.log(right / (right + wrong))
    return total / (2 * size)


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize(
    ("weighting", "strength"), [("threshold", 0.3), ("fade", 2.0), ("fade", 0.5), ("disagreement", 1.5)]
)
def test_matches_its_formula(size, weighting, strength):
    image, text, reference = unit(size, 6, 1), unit(size, 6, 2), unit(size, 4, 3)
    captions = torch.arange(size) % max(1, size - 2)
    expected = slow_reading(image, text, 5.0, reference, captions.tolist(), weighting, strength)
    term = FalseNegativesTerm(weighting=weighting, strength=strength)
    value = value_of(term, image, text, scale=5.0, reference=reference, caption_ids=captions)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "settings", [{"strength": 1.0}, {"weighting": "disagreement", "strength": 0.0}, {"weighting": "fade"}]
)
def test_unlike_references_make_it_clip_without_duplicates(settings):
    """Nothing reaches the threshold, nothing is tilted, or all cosines are negative or 0."""
    leaves = draw_leaves(7)
    more = {"reference": torch.eye(7).double(), "caption_ids": torch.tensor([0, 1, 2, 3, 4, 4, 0])}
    term, clip = FalseNegativesTerm(**settings), ClipTerm(mask_duplicates=True)
    torch.testing.assert_close(share_of(term, pairs_of(*leaves, **more)), share_of(clip, pairs_of(*leaves, **more)))
    torch.testing.assert_close(gradients_of(term, leaves, **more), gradients_of(clip, leaves, **more))


@pytest.mark.parametrize("weighting", ["threshold", "fade"])
def test_twins_are_not_pushed_apart(weighting):
    """Two pairs with one reference: neither has a gradient towards the other's text."""
    image, text = (unit(2, 6, seed).requires_grad_() for seed in (1, 2))
    reference = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()
    value = share_of(FalseNegativesTerm(weighting=weighting), pairs_of(image, text, reference=reference))
    assert value.item() == 0
    assert not any(bool(g.abs().any()) for g in torch.autograd.grad(value, (image, text)))


def test_equal_captions_are_no_negatives_however_unlike_their_references():
    image, text, reference = unit(2, 6, 1), unit(2, 6, 2), torch.eye(2).double()
    for weighting in WEIGHTS:
        term = FalseNegativesTerm(weighting=weighting)
        assert value_of(term, image, text, reference=reference, caption_ids=torch.tensor([4, 4])) == 0


@pytest.mark.parametrize(
    "settings",
    [{"strength": 1.5}, {"weighting": "fade", "strength": 0.0}, {"weighting": "disagreement", "strength": -1.0}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        FalseNegativesTerm(**settings)
