"""SelfDistillationTerm against a slow reading of DINO's loss, and what keeps it from collapsing."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import gelu, linear, normalize

from tests.objectives.batches import DIM, pairs_of, share_of, unit
from vlp.ground.types import Teacher
from vlp.objectives.self_distillation import SelfDistillationTerm

SIZES = {"num_prototypes": 5, "hidden_width": 6, "bottleneck": 4}
VARIANTS = [SIZES, SIZES | {"center_memory": 0.0, "decay": 0.5}]
ONE_TOWER = [{}, *VARIANTS]
NO_NEGATIVES = "every view is compared with prototypes and with its own image alone"


def built(**settings) -> SelfDistillationTerm:
    torch.manual_seed(0)
    term = SelfDistillationTerm(**(SIZES | settings))
    term.create(DIM)
    return term.double()


def batch(size=6, *, views=2):
    image, text, seen = unit(size, DIM, 1), unit(size, DIM, 2), unit(size, DIM, 3)
    crops = tuple(unit(size, DIM, 4 + view) for view in range(views))
    return pairs_of(image, text, image_views=crops, teacher=Teacher(seen, text))


def cosines_by_hand(parameters, rows):
    for place in range(3):
        rows = linear(rows, parameters[f"layers.{place}.weight"], parameters[f"layers.{place}.bias"])
        rows = gelu(rows) if place < 2 else rows
    return normalize(rows, dim=1) @ normalize(parameters["prototypes"], dim=1).T


@torch.no_grad()
def test_matches_paper_over_steps():
    """Three batches, between which the head moves: averages, center and loss by loops over numbers."""
    term = built(center_memory=0.7, decay=0.6)
    averages = {name: value.clone() for name, value in term.prototypes.head.named_parameters()}
    center = [0.0] * 5
    for size in (6, 4, 5):
        pairs = batch(size)
        for name, value in term.prototypes.head.named_parameters():
            value += 0.1 * torch.randn_like(value)
            averages[name] = 0.6 * averages[name] + 0.4 * value
        teacher = cosines_by_hand(averages, pairs.teacher("image")).tolist()
        head = dict(term.prototypes.head.named_parameters())
        wanted = 0.0
        for crop in pairs.embeddings.image_views:
            for row, target in zip(cosines_by_hand(head, crop).tolist(), teacher, strict=True):
                shares = [math.exp((value - c) / 0.04) for value, c in zip(target, center, strict=True)]
                below = math.log(sum(math.exp(value / 0.1) for value in row))
                wanted -= sum(share * (value / 0.1 - below) for share, value in zip(shares, row, strict=True)) / sum(
                    shares
                )
        assert share_of(term, pairs).item() == pytest.approx(wanted / (2 * size), rel=1e-9)
        means = [sum(column) / size for column in zip(*teacher, strict=True)]
        center = [0.7 * c + 0.3 * mean for c, mean in zip(center, means, strict=True)]


def test_the_teacher_learns_nothing_and_the_first_view_nothing_beside_others():
    image, text, seen, crop = (unit(6, DIM, seed).requires_grad_() for seed in (1, 2, 3, 4))
    share_of(built(), pairs_of(image, text, image_views=(crop,), teacher=Teacher(seen, text))).backward()
    assert crop.grad.abs().sum() > 0
    assert all(leaf.grad is None or not leaf.grad.any() for leaf in (image, text, seen))


def test_without_further_views_the_first_one_predicts():
    image, text, seen = (unit(6, DIM, seed).requires_grad_() for seed in (1, 2, 3))
    share_of(built(), pairs_of(image, text, teacher=Teacher(seen, text))).backward()
    assert image.grad.abs().sum() > 0


@torch.no_grad()
def test_a_prototype_that_all_samples_prefer_is_centred_away():
    term = built(center_memory=0.0)
    pairs = batch()
    share_of(term, pairs)
    found = (
        cosines_by_hand(dict(term.prototypes.head.named_parameters()), pairs.teacher("image")) - term.prototypes.center
    )
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(5).double())


@pytest.mark.parametrize("settings", [{"num_prototypes": 0}, {"teacher_temperature": 0.0}, {"decay": 1.5}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"must be positive|must lie in"):
        SelfDistillationTerm(**settings)
