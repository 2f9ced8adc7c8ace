"""FeatureContrastTerm against a slow reading of the formula, and what it asks of an image beside staying put."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.ground.types import Teacher
from vlp.objectives.feature_contrast import FeatureContrastTerm

ONE_TOWER = [{}]


def READING(batch):
    """The formula on whole matrices, where rows of one sample are no negatives of each other."""
    logits = batch.scale * batch.image @ batch.more["teacher"].image.T
    ahead = (logits - logits.diagonal()[:, None]).exp()
    return (ahead * batch.others).sum(1).log1p().mean()


@pytest.mark.parametrize("size", [1, 2, 7])
def test_matches_paper(size):
    image, teacher = unit(size, 6, 1), Teacher(unit(size, 6, 3), unit(size, 6, 4))
    total = 0.0
    for i in range(size):
        scores = [math.exp(10 * float(image[i] @ taught)) for taught in teacher.image]
        total -= math.log(scores[i] / sum(scores))
    value = value_of(FeatureContrastTerm(), image, unit(size, 6, 2), teacher=teacher)
    assert value == pytest.approx(total / size, rel=1e-9, abs=1e-12)


def test_an_image_is_pulled_to_its_own_place_and_pushed_from_the_others():
    leaves, teacher = draw_leaves(7), Teacher(unit(7, 6, 3), unit(7, 6, 4))
    found = gradients_of(FeatureContrastTerm(), leaves, teacher=teacher)
    shares = (10 * leaves[0].detach() @ teacher.image.T).softmax(1)
    torch.testing.assert_close(found[0], 10 * (shares - torch.eye(7)) @ teacher.image / 7)
    assert not found[1].any()


def test_an_image_may_move_where_no_other_is():
    """What leaves the plane of all images stays as recognisable, at a larger scale; its distance says otherwise."""
    taught = functional.pad(torch.eye(3).double(), (0, 3))
    moved = functional.normalize(taught + torch.eye(6).double()[3], dim=1)
    here, there = (
        value_of(FeatureContrastTerm(), image, taught, scale=scale, teacher=Teacher(taught, taught))
        for image, scale in ((taught, 10.0), (moved, 10.0 * math.sqrt(2)))
    )
    assert there == pytest.approx(here)
    assert (moved - taught).norm(dim=1).min() > 0.7
