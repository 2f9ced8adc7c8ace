"""SiamlipTerm against a slow reading of the paper, and the gradient that must not flow."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, gradients_of, pairs_of, share_of, unit
from vlp.objectives.siamlip import SiamlipTerm

VARIANTS = [{"hidden_width": 8}]


def built() -> SiamlipTerm:
    torch.manual_seed(0)
    term = SiamlipTerm(hidden_width=8)
    term.create(DIM)
    return term.double()


def two_minus_two_cosines(guesses, targets):
    total = 0.0
    for guess, target in zip(guesses.tolist(), targets.tolist(), strict=True):
        product = sum(a * b for a, b in zip(guess, target, strict=True))
        total += 2 - 2 * product / math.sqrt(sum(a * a for a in guess) * sum(b * b for b in target))
    return total / len(guesses)


@torch.no_grad()
def test_matches_paper_over_all_views():
    image, text, image1 = unit(7, DIM, 1), unit(7, DIM, 2), unit(7, DIM, 3)
    term = built()
    pairs = pairs_of(image, text, image_views=(image1,))
    losses = []
    for view in (image, image1):
        losses.append(two_minus_two_cosines(term.predict_text(pairs, view), text))
        losses.append(two_minus_two_cosines(term.predict_image(pairs, text), view))
    assert share_of(term, pairs).item() == pytest.approx(sum(losses) / 4, rel=1e-9)


def test_the_branch_of_the_targets_gets_no_gradient_at_all():
    """Predictors that always say the same pass nothing on, though the value depends on the targets."""
    term, leaves = built(), draw_leaves(7)
    with torch.no_grad():
        for head in (term.predict_text, term.predict_image):
            head.layers[-1].weight.zero_()
            head.layers[-1].bias.normal_()
    assert share_of(term, pairs_of(*leaves)).item() > 0.1
    assert all(not bool(gradient.any()) for gradient in gradients_of(term, leaves))
    value = share_of(term, pairs_of(*leaves)).item()
    assert value != share_of(term, pairs_of(leaves[0], unit(7, DIM, 5), *leaves[2:])).item()


def test_perfect_guesses_cost_nothing():
    term = SiamlipTerm()
    term.predict_text = term.predict_image = lambda pairs, rows: 3 * rows
    same = unit(7, DIM, 1)
    assert share_of(term, pairs_of(same, same)).item() == pytest.approx(0.0, abs=1e-12)
    assert share_of(term, pairs_of(same, -same)).item() == pytest.approx(4.0)
