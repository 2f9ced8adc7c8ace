"""GoproTerm against the formula in plain loops, and CoOp as what is left at weight 0."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, pairs_of, share_of, unit
from vlp.objectives.gopro import GoproTerm

VARIANTS = [{"contrast_weight": 1.0, "consistency_weight": 0.5, "temperature": 0.5}]
ONE_TOWER = [{}, *VARIANTS]  # without further views there is nothing to agree on about captions


def READING(b, contrast_weight=0.1, consistency_weight=1.0, temperature=0.1):
    """One view after the other; rows of one sample are no negatives of each other."""
    views = [b.image, *b.image_views[:1]] if b.image_views else [b.image, b.image]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(b.size):
        for mine, other in (views, views[::-1]):
            right = (mine[i] @ other[i]).div(temperature).exp()
            wrong = sum(
                (mine[i] @ seen[j]).div(temperature).exp() for seen in views for j in range(b.size) if b.others[i, j]
            )
            total = total - contrast_weight * torch.log(right / (right + wrong)) / 2
        for j in range(b.size):
            total = total + consistency_weight * ((views[0][i] - views[1][i]) @ b.text[j]) ** 2 / b.size
    return total / b.size


def test_views_that_are_equal_cost_the_contrast_alone():
    image, text = unit(6, DIM, 1), unit(6, DIM, 2)
    values = [
        share_of(GoproTerm(contrast_weight=0.1, consistency_weight=weight), pairs_of(image, text, image_views=(image,)))
        for weight in (0.0, 5.0)
    ]
    assert values[0].item() == pytest.approx(values[1].item()) and values[0] > 0


def test_captions_learn_where_views_differ():
    image, text, *_ = draw_leaves(6)
    share_of(GoproTerm(), pairs_of(image, text, image_views=(unit(6, DIM, 3),))).backward()
    assert image.grad.abs().sum() > 0 and text.grad.abs().sum() > 0


def test_with_weights_of_zero_nothing_is_left():
    pairs = pairs_of(*draw_leaves(6), image_views=(unit(6, DIM, 3),))
    assert share_of(GoproTerm(contrast_weight=0.0, consistency_weight=0.0), pairs).item() == 0


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"contrast_weight": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        GoproTerm(**settings)
