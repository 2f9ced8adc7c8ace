"""DhelTerm against a slow reading, with two views and with more, and what it leaves alone."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from tests.objectives.batches import unit, value_of
from vlp.objectives.dhel import DhelTerm


def dhel_by_hand(image, text, scale):
    size, total = len(image), 0.0
    for i in range(size):
        for own in (image, text):
            total += math.log(sum(math.exp(scale * float(own[i] @ own[j])) for j in range(size) if j != i))
        total -= scale * float(image[i] @ text[i])
    return total / size


def mv_dhel_by_hand(views, scale):
    size, total = len(views[0]), 0.0
    for i in range(size):
        for own in views:
            total += math.log(sum(math.exp(scale * float(own[i] @ own[j])) for j in range(size) if j != i))
        total -= math.log(sum(math.exp(scale * float(one[i] @ other[i])) for one, other in combinations(views, 2)))
    return total / size


@pytest.mark.parametrize("size", [2, 7])
def test_matches_paper(size):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    assert value_of(DhelTerm(), image, text) == pytest.approx(dhel_by_hand(image, text, 10.0), rel=1e-10)


@pytest.mark.parametrize(("images", "texts"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_further_views_match_paper(images, texts):
    views = [unit(5, 6, seed) for seed in range(images + texts)]
    image, text = views[:images], views[images:]
    value = value_of(DhelTerm(), image[0], text[0], image_views=tuple(image[1:]), text_views=tuple(text[1:]))
    assert value == pytest.approx(mv_dhel_by_hand(views, 10.0), rel=1e-10)


def test_views_may_change_places():
    views = [unit(5, 6, seed) for seed in range(3)]
    values = [value_of(DhelTerm(), views[a], views[b], image_views=(views[c],)) for a, b, c in [(0, 1, 2), (2, 0, 1)]]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_equal_views_count_their_pairs():
    """All views alike: the pull is scale + log of how many pairs of views there are."""
    image = unit(5, 6, 1)
    logits = (10 * image @ image.T).fill_diagonal_(-math.inf)
    expected = 4 * logits.logsumexp(1).mean().item() - 10 - math.log(6)
    value = value_of(DhelTerm(), image, image, image_views=(image,), text_views=(image,))
    assert value == pytest.approx(expected, rel=1e-10)


def test_texts_of_other_pairs_do_not_count():
    """Turn all texts together: only the alignment of pairs changes."""
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    turn, _ = torch.linalg.qr(unit(6, 6, 3))
    change = 10 * ((image * text).sum(1) - (image * (text @ turn)).sum(1)).mean().item()
    assert value_of(DhelTerm(), image, text @ turn) - value_of(DhelTerm(), image, text) == pytest.approx(change)
