"""The losses of attacks, by a slow reading of their papers."""

from __future__ import annotations

import math

import pytest
import torch

from vlp.robust.problem import cross_entropy, logit_ratio, margin, towards

SCORES = torch.tensor([[2.0, 1.0, 0.5, -1.0], [0.0, 3.0, 2.5, 1.0], [1.0, 4.0, 0.0, 2.0]])
RIGHT = torch.tensor([[True, False, False, False], [False, False, True, False], [True, False, True, False]])


def split(row, right):
    """Return right and wrong scores of one sample."""
    pairs = list(zip(row, right, strict=True))
    return [score for score, is_right in pairs if is_right], [score for score, is_right in pairs if not is_right]


def by_hand(loss):
    return pytest.approx([loss(row, right) for row, right in zip(SCORES.tolist(), RIGHT.tolist(), strict=True)])


def test_cross_entropy_of_all_that_is_right():
    def loss(row, right):
        return -math.log(sum(map(math.exp, split(row, right)[0])) / sum(map(math.exp, row)))

    assert cross_entropy(SCORES, RIGHT).tolist() == by_hand(loss)


def test_margin():
    def loss(row, right):
        good, bad = split(row, right)
        return max(bad) - max(good)

    assert margin(SCORES, RIGHT).tolist() == by_hand(loss)
    assert (margin(SCORES, RIGHT) > 0).tolist() == [False, True, True]


def test_the_ratio_does_not_know_the_scale():
    def loss(row, right):
        good, bad = split(row, right)
        best = sorted(row, reverse=True)
        return -(max(good) - max(bad)) / (best[0] - best[2])

    assert logit_ratio(SCORES, RIGHT).tolist() == by_hand(loss)
    torch.testing.assert_close(logit_ratio(7 * SCORES, RIGHT), logit_ratio(SCORES, RIGHT))


def test_the_targeted_ratio():
    def loss(row, right):
        best = sorted(row, reverse=True)
        return -(max(split(row, right)[0]) - row[3]) / (best[0] - (best[2] + best[3]) / 2)

    assert towards([3, 3, 3])(SCORES, RIGHT).tolist() == by_hand(loss)


def test_few_candidates_have_margins():
    assert torch.equal(logit_ratio(SCORES[:, :2], RIGHT[:, 1:3]), margin(SCORES[:, :2], RIGHT[:, 1:3]))
    assert towards([1])(SCORES[:1, :3], RIGHT[:1, :3]).tolist() == [-1.0]
