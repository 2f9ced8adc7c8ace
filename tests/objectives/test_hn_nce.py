"""HardNegativeTerm against a slow reading of both papers, and the terms that it contains."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit, value_of
from vlp.objectives.clip import ClipTerm
from vlp.objectives.dcl import DclTerm
from vlp.objectives.hn_nce import HardNegativeTerm

VARIANTS = [{"beta": 0.5, "eta": 0.3, "detach_weights": False, "prior": 0.01}, {"beta": 0.0, "eta": 0.0}]


def hn_nce_by_hand(image, text, scale, beta, eta, prior):
    size, total = len(image), 0.0
    for i in range(size):
        for own, other in ((image, text), (text, image)):
            logits = [scale * float(own[i] @ other[j]) for j in range(size)]
            others = [j for j in range(size) if j != i]
            normaliser = sum(math.exp(beta * logits[j]) for j in others)
            weights = {j: (size - 1) * math.exp(beta * logits[j]) / normaliser for j in others}
            negatives = sum(weights[j] * math.exp(logits[j]) for j in others)
            if prior:
                left = (negatives - prior * (size - 1) * math.exp(logits[i])) / (1 - prior)
                negatives = max(left, (size - 1) * math.exp(-scale))
            total += math.log(eta * math.exp(logits[i]) + negatives) - logits[i]
    return total / (2 * size)


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(
    ("beta", "eta", "prior"), [(0.25, 1.0, 0.0), (1.0, 0.5, 0.1), (0.5, 0.0, 0.9), (0.0, 1.0, 0.1)]
)
def test_matches_paper(size, detach, beta, eta, prior):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    term = HardNegativeTerm(beta=beta, eta=eta, prior=prior, detach_weights=detach)
    expected = hn_nce_by_hand(image, text, 5.0, beta, eta, prior)
    assert value_of(term, image, text, scale=5.0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("eta", "term"), [(1.0, ClipTerm()), (0.0, DclTerm())])
def test_without_reweighting_it_is_clip_or_dcl(eta, term):
    leaves = draw_leaves(7)
    plain = HardNegativeTerm(beta=0, eta=eta)
    assert share_of(plain, pairs_of(*leaves)).item() == pytest.approx(share_of(term, pairs_of(*leaves)).item())
    torch.testing.assert_close(gradients_of(plain, leaves), gradients_of(term, leaves))


def test_a_large_beta_counts_the_hardest_negative_alone():
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    logits = 10 * image @ text.T
    hardest = logits.masked_fill(torch.eye(7, dtype=torch.bool), -math.inf)
    rows, columns = hardest.amax(1), hardest.amax(0)
    expected = (math.log(6) + (rows + columns) / 2 - logits.diagonal()).mean().item()
    assert value_of(HardNegativeTerm(beta=1e4, eta=0), image, text) == pytest.approx(expected, rel=1e-3)


def test_detached_weights_push_as_their_softmax():
    """With one direction's weights held fixed, the push on negative j is scale * softmax of (1 + beta) z_ij."""
    leaves = draw_leaves(7)
    image, text, scale, _ = (leaf.detach() for leaf in leaves)
    logits = (scale * image @ text.T).masked_fill(torch.eye(7, dtype=torch.bool), -math.inf)
    shares = (1.5 * logits).softmax(1) + (1.5 * logits).softmax(0)
    expected = scale * (shares @ text / 2 - text) / 7
    torch.testing.assert_close(gradients_of(HardNegativeTerm(beta=0.5, eta=0), leaves)[0], expected)


@pytest.mark.parametrize("settings", [{"beta": -1.0}, {"eta": -0.1}, {"prior": 1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        HardNegativeTerm(**settings)
