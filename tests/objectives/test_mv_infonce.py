"""MultiViewInfoNceTerm against a slow reading of the paper, and what it is with two views."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from tests.objectives.batches import unit, value_of
from vlp.objectives.clip import ClipTerm
from vlp.objectives.mv_infonce import MultiViewInfoNceTerm

VARIANTS = [{"intra_view": True}]


def mv_infonce_by_hand(views, scale, intra_view):
    size, total = len(views[0]), 0.0
    places = range(len(views))
    for i in range(size):
        positives, everything = 0.0, 0.0
        for k in places:
            for m in places:
                similar = [math.exp(scale * float(views[k][i] @ views[m][j])) for j in range(size)]
                positives += similar[i] * (k != m)
                everything += sum(similar) if k != m else intra_view * (sum(similar) - similar[i])
        total += math.log(everything) - math.log(positives)
    return total / size


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("intra_view", [False, True])
@pytest.mark.parametrize(("images", "texts"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_matches_paper(size, intra_view, images, texts):
    views = [unit(size, 6, seed) for seed in range(images + texts)]
    image, text = views[:images], views[images:]
    term = MultiViewInfoNceTerm(intra_view=intra_view)
    value = value_of(term, image[0], text[0], image_views=tuple(image[1:]), text_views=tuple(text[1:]))
    assert value == pytest.approx(mv_infonce_by_hand(views, 10.0, intra_view), rel=1e-10)


def test_two_views_share_one_denominator():
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    logits = 10 * image @ text.T
    together = torch.logaddexp(logits.logsumexp(1), logits.logsumexp(0))
    expected = (together - logits.diagonal() - math.log(2)).mean().item()
    assert value_of(MultiViewInfoNceTerm(), image, text) == pytest.approx(expected, rel=1e-10)
    assert expected > value_of(ClipTerm(), image, text)


def test_it_is_clip_where_rows_and_columns_sum_to_the_same():
    eye, turned = torch.eye(6).double(), torch.eye(6).double().roll(1, 0)
    text = torch.nn.functional.normalize(eye + 0.3 * turned, dim=1)  # a circulant matrix
    assert value_of(MultiViewInfoNceTerm(), eye, text) == pytest.approx(value_of(ClipTerm(), eye, text), rel=1e-10)


@pytest.mark.parametrize("intra_view", [False, True])
def test_views_may_change_places(intra_view):
    views = [unit(5, 6, seed) for seed in range(4)]
    term = MultiViewInfoNceTerm(intra_view=intra_view)
    values = [
        value_of(term, views[a], views[b], image_views=(views[c],), text_views=(views[d],))
        for a, b, c, d in [(0, 1, 2, 3), (2, 1, 0, 3), (3, 2, 1, 0)]
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-12)


def test_equal_views_count_their_pairs():
    """All views alike: the positives of a pair are scale + log of how many pairs of views there are."""
    image = unit(5, 6, 1)
    logits = 10 * image @ image.T
    num_views, num_combinations = 4, len(list(combinations(range(4), 2)))
    denominator = math.log(num_views * (num_views - 1)) + logits.logsumexp(1)
    expected = (denominator - (10 + math.log(num_combinations)) - math.log(2)).mean().item()
    value = value_of(MultiViewInfoNceTerm(), image, image, image_views=(image,), text_views=(image,))
    assert value == pytest.approx(expected, rel=1e-9)
