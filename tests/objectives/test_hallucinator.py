"""HallucinatorTerm against a slow reading of its formula, and what a silent perceptron makes of it."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, gradients_of, pairs_of, share_of
from vlp.ground.draws import uniform
from vlp.objectives.clip import ClipTerm
from vlp.objectives.hallucinator import SALT, HallucinatorTerm

VARIANTS = [{"hallucination_weight": 0.3, "hidden": 3, "max_distance": 0.5}]


def build(**settings):
    term = HallucinatorTerm(**settings)
    torch.manual_seed(0)
    term.create(DIM)
    return term.double()


def made_by_hand(term, image, text):
    draws = uniform(torch.arange(len(image)), 0, SALT, 1)[:, 0].tolist()
    made = []
    for x, y, draw in zip(image, text, draws, strict=True):
        moved = y + term.perceptron(y + term.max_distance * draw * (y - x.detach()))
        made.append(moved / moved.norm())
    return made


def slow_reading(term, image, text, scale):
    size, total = len(image), 0.0
    made = made_by_hand(term, image, text)
    for i in range(size):
        for own, other, share in ((image, text, 0.5), (text, image, 0.5)):
            logits = torch.stack([scale * own[i] @ other[j] for j in range(size)])
            total = total + share * (logits.logsumexp(0) - logits[i])
        logits = torch.stack([scale * image[i] @ (made[i] if j == i else text[j]) for j in range(size)])
        total = total + term.hallucination_weight * (logits.logsumexp(0) - logits[i])
    return total / size


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("settings", [{}, *VARIANTS])
def test_matches_its_formula(size, settings):
    term, leaves = build(**settings), draw_leaves(size)
    wanted = [*leaves[:3], *term.parameters()]
    ours, theirs = share_of(term, pairs_of(*leaves)), slow_reading(term, *leaves[:3])
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9, abs=1e-12)
    gradients = [torch.autograd.grad(value, wanted) for value in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_silent_perceptron_repeats_the_rows_of_clip():
    term, leaves = build(hallucination_weight=0.5), draw_leaves(7)
    torch.nn.init.zeros_(term.perceptron[2].weight)
    torch.nn.init.zeros_(term.perceptron[2].bias)
    clip, rows = ClipTerm(), ClipTerm(text_share=0.0)
    expected = share_of(clip, pairs_of(*leaves)) + 0.5 * share_of(rows, pairs_of(*leaves))
    assert share_of(term, pairs_of(*leaves)).item() == pytest.approx(expected.item())
    together = [a + b / 2 for a, b in zip(*(gradients_of(part, leaves) for part in (clip, rows)), strict=True)]
    torch.testing.assert_close(gradients_of(term, leaves)[:1], together[:1])


def test_weight_0_is_clip():
    leaves = draw_leaves(7)
    term = build(hallucination_weight=0.0)
    torch.testing.assert_close(gradients_of(term, leaves), gradients_of(ClipTerm(), leaves))


def test_no_gradient_reaches_the_image_through_the_made_text():
    term, leaves = build(), draw_leaves(3)
    made = term.hallucinate(pairs_of(*leaves))
    image, text = torch.autograd.grad(made.sum(), leaves[:2], allow_unused=True)
    assert image is None
    assert bool(text.abs().sum() > 0)
    assert made.shape == (3, DIM)
    assert made.norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    assert bool(((made - leaves[1]).detach().abs() > 1e-3).any())


@pytest.mark.parametrize("settings", [{"hallucination_weight": -1.0}, {"hidden": 0}, {"max_distance": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        HallucinatorTerm(**settings)
