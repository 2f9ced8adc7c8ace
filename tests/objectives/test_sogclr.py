"""GlobalContrastTerm against a slow reading over several batches, and the identities of its memory."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit
from vlp.objectives.dcl import DclTerm
from vlp.objectives.sogclr import GlobalContrastTerm

VARIANTS = [{"gamma": 0.2, "gamma_steps": 4, "budget": 1.0}]

SCALE = 5.0


def batch_averages(image, text):
    """The mean of exp(z_ij - z_ii) over the negatives of each image, and of each text."""
    size = len(image)
    return [
        [
            sum(math.exp(SCALE * float(own[i] @ other[j] - own[i] @ other[i])) for j in range(size) if j != i)
            / (size - 1)
            for own, other in ((image, text), (text, image))
        ]
        for i in range(size)
    ]


def surrogate_by_hand(image, text, averages):
    """The papers' loss: sum over negatives of h_ij, weighted by exp(h_ij / tau) / u_i without gradient."""
    size, total = len(image), 0.0
    for i in range(size):
        for side, (own, other) in enumerate(((image, text), (text, image))):
            for j in range(size):
                if j != i:
                    gap = own[i] @ other[j] - own[i] @ other[i]
                    weight = (SCALE * gap).exp().detach() / averages[i][side]
                    total = total + weight * gap / (size - 1)
    return total / (2 * size)


def batches():
    """Three batches of ids, of which some come again."""
    return [
        (torch.tensor(ids), unit(5, 6, seed), unit(5, 6, seed + 50))
        for seed, ids in enumerate(([3, 8, 1, 0, 4], [8, 3, 7, 1, 2], [3, 1, 8, 7, 6]))
    ]


@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_matches_paper_over_several_batches(gamma):
    term, memory = GlobalContrastTerm(gamma=gamma), {}
    for ids, image, text in batches():
        for key, new in zip(ids.tolist(), batch_averages(image, text), strict=True):
            old = memory.get(key, new)
            memory[key] = [(1 - gamma) * o + gamma * n for o, n in zip(old, new, strict=True)]
        leaves = [image.clone().requires_grad_(), text.clone().requires_grad_(), *draw_leaves(1, scale=SCALE)[2:]]
        ours = gradients_of(term, leaves, ids=ids)[:2]
        slow = surrogate_by_hand(leaves[0], leaves[1], [memory[key] for key in ids.tolist()])
        torch.testing.assert_close(ours, list(torch.autograd.grad(slow, leaves[:2])), rtol=1e-6, atol=1e-8)
    stored = {key: term.log_means[key].exp().tolist() for key in memory}
    assert {key: pytest.approx(value, rel=1e-5) for key, value in memory.items()} == stored


def test_without_memory_it_is_dcl_times_the_temperature():
    leaves = draw_leaves(7)
    ours, dcl = (gradients_of(term, leaves) for term in (GlobalContrastTerm(gamma=1), DclTerm()))
    torch.testing.assert_close(ours[:2], [gradient / leaves[2].detach() for gradient in dcl[:2]])


def test_the_order_of_a_batch_does_not_reach_the_memory():
    ids, image, text = batches()[0]
    order = torch.tensor([2, 0, 4, 1, 3])
    one, other = GlobalContrastTerm(), GlobalContrastTerm()
    share_of(one, pairs_of(image, text, ids=ids))
    share_of(other, pairs_of(image[order], text[order], ids=ids[order]))
    torch.testing.assert_close(one.log_means, other.log_means)


def test_a_sample_twice_in_a_batch_counts_once_with_its_mean():
    image, text = unit(4, 6, 1), unit(4, 6, 2)
    term = GlobalContrastTerm()
    share_of(term, pairs_of(image, text, scale=SCALE, ids=torch.tensor([5, 5, 2, 0])))
    (first, *_), (second, *_) = (batch_averages(image[rows], text[rows]) for rows in ([0, 2, 3], [1, 2, 3]))
    assert term.log_means[5].exp().tolist() == pytest.approx([(a + b) / 2 for a, b in zip(first, second, strict=True)])


def test_gamma_falls_from_one():
    term = GlobalContrastTerm(gamma=0.2, gamma_steps=2)
    ids, image, text = batches()[0]
    gammas = []
    for _ in range(4):
        gammas.append(float(term.gamma(term.num_updates)))
        share_of(term, pairs_of(image, text, ids=ids))
    assert gammas == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_the_temperature_balances_divergence_and_budget():
    """Without memory, the slope in the temperature is the budget minus the mean divergence from uniform weights."""
    leaves = draw_leaves(7)
    image, text, scale, _ = (leaf.detach() for leaf in leaves)
    logits = (scale * image @ text.T).masked_fill(torch.eye(7, dtype=torch.bool), -math.inf)
    shares = torch.cat([logits.softmax(1), logits.softmax(0).T])
    divergence = (torch.xlogy(shares, shares).sum(1) + math.log(6)).mean()
    *_, by_scale, _ = gradients_of(GlobalContrastTerm(gamma=1, budget=1.5), leaves)
    by_temperature = -by_scale * scale**2
    assert by_temperature.item() == pytest.approx(1.5 - divergence.item())


def test_numbers_that_are_not_finite_do_not_reach_the_memory():
    ids, image, text = batches()[0]
    term = GlobalContrastTerm()
    share_of(term, pairs_of(image, text, ids=ids))
    before = term.log_means.clone()
    share_of(term, pairs_of(image * math.nan, text, ids=ids))
    assert torch.equal(term.log_means, before)


@pytest.mark.parametrize("settings", [{"gamma": 0.0}, {"gamma": 1.1}, {"gamma_steps": -1}, {"budget": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        GlobalContrastTerm(**settings)
