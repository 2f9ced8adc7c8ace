"""CommonSalientTerm against a slow reading of its formula, and what constant private parts make of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import pairs_of, share_of, unit, value_of
from vlp.objectives.alignment import AlignmentTerm
from vlp.objectives.sepclr import CommonSalientTerm

VARIANTS = [{"private_dim": 2, "entropy_weight": 1.0, "sharpness": 2.0}]


def distance(a, b):
    return sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True))


def split(embeddings, private):
    cut = embeddings.shape[1] - private
    return functional.normalize(embeddings[:, :cut], dim=1), functional.normalize(embeddings[:, cut:], dim=1)


def joint_entropy_by_hand(shared, private, sharpness):
    size, total = len(shared), 0.0
    for i in range(size):
        kernels = [
            math.exp(-sharpness * distance(shared[i], shared[j]))
            * math.exp(-sharpness * distance(private[i], private[j]))
            for j in range(size)
        ]
        total += math.log(sum(kernels) / size)
    return total / size


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(("private", "weight", "sharpness"), [(1, 10.0, 1.0), (2, 0.5, 2.0), (4, 1.0, 0.5)])
def test_matches_its_formula(size, private, weight, sharpness):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    images, texts = split(image, private), split(text, private)
    alignment = sum(distance(images[0][i], texts[0][i]) for i in range(size)) / size
    entropy = sum(joint_entropy_by_hand(*parts, sharpness) for parts in (images, texts)) / 2
    term = CommonSalientTerm(private_dim=private, entropy_weight=weight, sharpness=sharpness)
    assert value_of(term, image, text) == pytest.approx(alignment + weight * entropy, rel=1e-9)


def test_constant_private_parts_leave_the_uniformity_of_the_shared_ones():
    """Row by row, the diagonal included."""
    shared = [unit(7, 4, seed) for seed in (1, 2)]
    image, text = (torch.cat([part, unit(1, 2, 3).repeat(7, 1)], dim=1) for part in shared)
    uniformity = [torch.exp(-(torch.cdist(part, part) ** 2)).mean(1).log().mean() for part in shared]
    entropy = value_of(CommonSalientTerm(private_dim=2, entropy_weight=1.0), image, text)
    entropy -= value_of(CommonSalientTerm(private_dim=2, entropy_weight=0.0), image, text)
    assert entropy == pytest.approx(sum(uniformity).item() / 2)


def test_without_entropy_it_is_the_alignment_of_the_shared_parts():
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    ours = value_of(CommonSalientTerm(private_dim=2, entropy_weight=0.0), image, text)
    assert ours == pytest.approx(value_of(AlignmentTerm(), split(image, 2)[0], split(text, 2)[0]))


def test_a_private_copy_of_the_shared_part_costs_more_than_an_independent_one():
    """What the entropy is for: it is lowest where the two parts tell different things."""
    shared, other = unit(64, 4, 1), unit(64, 4, 2)
    copied, independent = (
        value_of(CommonSalientTerm(private_dim=4), both, both)
        for both in (torch.cat([shared, private], dim=1) for private in (shared, other))
    )
    assert copied > independent + 1


def test_a_quarter_is_private_where_nothing_is_said():
    image, text = (unit(5, 8, seed).requires_grad_() for seed in (1, 2))
    share_of(CommonSalientTerm(entropy_weight=0.0), pairs_of(image, text)).backward()
    assert bool((image.grad[:, 6:] == 0).all())
    assert bool((image.grad[:, :6] != 0).any())


@pytest.mark.parametrize(
    "settings", [{"private_dim": 0}, {"private_dim": 6}, {"sharpness": 0.0}, {"entropy_weight": -1.0}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        CommonSalientTerm(**settings).create(6)
