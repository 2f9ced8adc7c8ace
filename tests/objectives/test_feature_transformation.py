"""FeatureTransformationTerm against a slow reading of the paper with its own draws, and the identities of its parts."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import beta
from torch.nn import functional

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit
from vlp.ground.draws import uniform
from vlp.objectives.clip import ClipTerm
from vlp.objectives.feature_transformation import (
    SALT_OF_KEPT,
    SALT_OF_PARTNERS,
    SALT_OF_SHARES,
    BetaQuantiles,
    FeatureTransformationTerm,
)

SIDES = (("image", "text"), ("text", "image"))
VARIANTS = [{"positive": 0.0}, {"negative": 0.0}, {"positive": 1.0, "negative": 3.0}, {"each_dimension": True}]
VARIANTS += [{"queue": 5}]


def draws_by_hand(size, positive, negative):
    """Extrapolation factors, shares of texts and of images, and couples; ids are positions, the step is 0."""
    shares = uniform(torch.arange(size), 0, SALT_OF_SHARES, 3)
    factors = [1 + beta.ppf(u, positive, positive) for u in shares[:, 0].tolist()]
    mixes = [[beta.ppf(u, negative, negative) for u in shares[:, k].tolist()] for k in (1, 2)]
    keys = uniform(torch.arange(size), 0, SALT_OF_PARTNERS, 1)[:, 0].tolist()
    order = sorted(range(size), key=lambda i: keys[i])
    partner = list(range(size))
    for k in range(0, size - 1, 2):
        partner[order[k]], partner[order[k + 1]] = order[k + 1], order[k]
    return factors, mixes, partner


def slow_reading(image, text, scale, positive, negative):
    size, total = len(image), 0.0
    factors, mixes, partner = draws_by_hand(size, positive, negative)
    for own, other, shares in ((image, text, mixes[0]), (text, image, mixes[1])):
        blends = [
            functional.normalize(shares[j] * other[j] + (1 - shares[j]) * other[partner[j]], dim=0) for j in range(size)
        ]
        for i in range(size):
            pushed = [
                functional.normalize(factors[i] * a[i] + (1 - factors[i]) * b[i], dim=0)
                for a, b in ((image, text), (text, image))
            ]
            right = scale * pushed[0] @ pushed[1]
            wrong = [scale * own[i] @ blends[j] for j in range(size) if j not in (i, partner[i])]
            total = total + torch.stack([right, *wrong]).logsumexp(0) - right
    return total / (2 * size)


@pytest.mark.parametrize("size", [3, 6, 9])
@pytest.mark.parametrize(("positive", "negative"), [(2.0, 1.6), (1.0, 3.0)])
def test_matches_paper(size, positive, negative):
    leaves = draw_leaves(size)
    term = FeatureTransformationTerm(positive=positive, negative=negative)
    slow = slow_reading(*leaves[:3], positive, negative)
    assert share_of(term, pairs_of(*leaves)).item() == pytest.approx(slow.item(), rel=1e-4)  # quantiles of a table
    theirs = [_tangent(g, leaf) for g, leaf in zip(torch.autograd.grad(slow, leaves[:2]), leaves, strict=False)]
    ours = [_tangent(g, leaf) for g, leaf in zip(gradients_of(term, leaves), leaves[:2], strict=False)]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def _tangent(gradient, leaf):
    """Take away what a normalised tower never sees."""
    return gradient - (gradient * leaf.detach()).sum(1, keepdim=True) * leaf.detach()


@pytest.mark.parametrize("each_dimension", [False, True])
def test_blends_of_what_is_queued_join(each_dimension):
    """A queue of 5 after a batch of 4, so one place is empty; the second batch meets blends of neighbours."""
    term = FeatureTransformationTerm(positive=0, each_dimension=each_dimension, queue=5)
    term.create(6)
    alone = FeatureTransformationTerm(positive=0, each_dimension=each_dimension)
    old, ids = (unit(4, 6, 7), unit(4, 6, 8)), torch.tensor([30, 31, 32, 33])
    share_of(term, pairs_of(*old, ids=ids))
    image, text, now = unit(4, 6, 1), unit(4, 6, 2), torch.tensor([40, 31, 42, 43])
    total = 0.0
    for k, (own, other, kept) in enumerate(((image, text, old[1]), (text, image, old[0]))):
        draws = uniform(torch.arange(5), 1, SALT_OF_KEPT + 1 - k, 7 if each_dimension else 2)[1:]
        order = sorted(range(4), key=lambda j: draws[j, 0].item())
        blends = []
        for place, j in enumerate(order):
            partner = order[place - 1] if place else j
            part = term.interpolate(draws[j, 1:])
            blend = functional.normalize(part * kept[j] + (1 - part) * kept[partner], dim=0)
            blends.append((blend, {ids[j].item(), ids[partner].item()}))
        for i in range(4):
            wrong = [10 * own[i] @ blend for blend, held in blends if now[i].item() not in held]
            couples = alone._couples(pairs_of(image, text, ids=now, step=1))
            here = alone._negatives(pairs_of(image, text, ids=now, step=1), *SIDES[k], couples, k + 1)[i]
            total += functional.softplus(torch.stack([here, *wrong]).logsumexp(0) - 10 * own[i] @ other[i]).item()
    assert share_of(term, pairs_of(image, text, ids=now, step=1)).item() == pytest.approx(total / 8, rel=1e-5)


def test_with_neither_part_it_is_clip():
    leaves = draw_leaves(9)
    plain = FeatureTransformationTerm(positive=0, negative=0)
    assert share_of(plain, pairs_of(*leaves)).item() == pytest.approx(share_of(ClipTerm(), pairs_of(*leaves)).item())
    torch.testing.assert_close(gradients_of(plain, leaves), gradients_of(ClipTerm(), leaves))


def test_blends_of_equal_negatives_change_nothing_but_their_number():
    image, text = unit(1, 6, 1).repeat(8, 1), unit(1, 6, 2).repeat(8, 1)
    value = share_of(FeatureTransformationTerm(positive=0), pairs_of(image, text)).item()
    assert value == pytest.approx(math.log(1 + 6))


def test_extrapolation_lowers_the_cosine_as_the_paper_says():
    """Before normalisation x'.y' = s + 2 l (1 - l) (1 - s), and both squared lengths are 1 - 2 l (1 - l) (1 - s)."""
    image, text = unit(9, 6, 1), unit(9, 6, 2)
    term = FeatureTransformationTerm()
    pairs = pairs_of(image, text)
    factor = 1 + term.extrapolate(pairs.draws(3, SALT_OF_SHARES)[:, 0])
    cosine = pairs.positive_cosines
    gap = 2 * factor * (1 - factor) * (1 - cosine)
    torch.testing.assert_close(term._positive_cosines(pairs), (cosine + gap) / (1 - gap))
    assert bool((term._positive_cosines(pairs) <= cosine).all())


def test_couples_are_exchanges_that_follow_the_ids():
    ids = torch.tensor([7, 3, 9, 1, 5])
    order = torch.tensor([3, 1, 4, 0, 2])
    image, text = unit(5, 6, 1), unit(5, 6, 2)
    straight, mixed = (
        FeatureTransformationTerm()._couples(pairs_of(image[rows], text[rows], ids=ids[rows]))
        for rows in (torch.arange(5), order)
    )
    assert torch.equal(straight[straight], torch.arange(5))
    assert dict(zip(ids[order].tolist(), ids[order][mixed].tolist(), strict=True)) == dict(
        zip(ids.tolist(), ids[straight].tolist(), strict=True)
    )


@pytest.mark.parametrize("parameter", [1.6, 2.0])
def test_quantiles_follow_the_distribution(parameter):
    uniforms = torch.linspace(0, 1, 5001, dtype=torch.float64)
    numbers = BetaQuantiles(parameter)(uniforms)
    assert bool((numbers.diff() > 0).all())
    torch.testing.assert_close(numbers, torch.as_tensor(beta.ppf(uniforms, parameter, parameter)), rtol=0, atol=5e-3)
    assert numbers.var().item() == pytest.approx(1 / (4 * (2 * parameter + 1)), rel=1e-2)


@pytest.mark.parametrize("settings", [{"positive": -1.0}, {"negative": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        FeatureTransformationTerm(**settings)
