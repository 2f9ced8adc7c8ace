"""R-precision and mAP@R by walking down the list, and over all orders of what is tied."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from tests.evaluators.kinds import draw_rows
from vlp.evaluators.r_precision import BLOCK, largest, precision_at_r


def walk(order, right):
    """Both numbers of one order of the items."""
    found, precisions = 0, 0.0
    for place, item in enumerate(order[: len(right)], 1):
        if item in right:
            found += 1
            precisions += found / place
    return found / len(right), precisions / len(right)


def pairs(listed):
    return torch.tensor([(query, item) for query, items in enumerate(listed) for item in items]).T.contiguous()


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_walk_down_the_list(seed):
    queries, items = draw_rows(30, 5, seed=seed), draw_rows(50, 5, seed=seed + 10)
    listed = [torch.randperm(50, generator=torch.Generator().manual_seed(i))[: 1 + i % 9].tolist() for i in range(30)]
    precision, mean_precision = precision_at_r(queries, items, pairs(listed))
    for i, query in enumerate(queries):
        scores = (items @ query).tolist()
        order = sorted(range(50), key=lambda item: -scores[item])
        assert (precision[i].item(), mean_precision[i].item()) == pytest.approx(walk(order, listed[i]))


@pytest.mark.parametrize(
    "scores",
    [
        [3, 3, 3, 1, 1],
        [3, 2, 2, 2, 2],
        [1, 1, 1, 1, 1],
        [5, 4, 4, 3, 3],
        [2, 2, 2, 2, 1],
    ],
)
@pytest.mark.parametrize("right", [[0], [4], [0, 1], [1, 3], [2, 3, 4], [0, 1, 2, 3, 4]])
def test_ties_are_expected_over_all_orders(scores, right):
    found = precision_at_r(torch.tensor([[1.0]]), torch.tensor(scores).float()[:, None], pairs([right]))
    every = [
        walk(order, right)
        for order in permutations(range(5))
        if sorted(scores, reverse=True) == [scores[i] for i in order]
    ]
    expected = [sum(column) / len(every) for column in zip(*every, strict=True)]
    assert [each.item() for each in found] == pytest.approx(expected)


def test_one_positive_makes_both_recall_at_one():
    queries, items = draw_rows(40, 3), draw_rows(40, 3, seed=1)
    own = torch.arange(40)
    precision, mean_precision = precision_at_r(queries, items, torch.stack([own, own]))
    hits = (queries @ items.T).argmax(dim=1) == own
    assert precision.tolist() == mean_precision.tolist() == hits.double().tolist()


@pytest.mark.parametrize("scores_at_once", [1, 300, 10**6])
def test_chunks_do_not_matter(monkeypatch, scores_at_once):
    queries, items = ((draw_rows(30, 4, seed=seed) * 8).round() / 8 for seed in (0, 1))  # exact sums, and ties
    positives = pairs([[i, (i + 3) % 30, (i + 9) % 30][: 1 + i % 3] for i in range(30)])
    whole = precision_at_r(queries, items, positives)
    monkeypatch.setattr("vlp.evaluators.r_precision.SCORES_AT_ONCE", scores_at_once)
    for first, second in zip(precision_at_r(queries, items, positives), whole, strict=True):
        assert first.tolist() == second.tolist()


def test_positives_that_are_nowhere_count():
    scores = torch.tensor([3.0, 2.0, 1.0])[:, None]
    precision, mean_precision = precision_at_r(torch.ones(1, 1), scores, pairs([[0, 2]]), torch.tensor([2]))
    assert (precision.item(), mean_precision.item()) == pytest.approx((2 / 4, (1 + 2 / 3) / 4))


@pytest.mark.parametrize("width", [3, BLOCK * 9, BLOCK * 40 + 17])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_largest_are_found_by_blocks(width, coarse):
    scores = torch.randn(20, width, generator=torch.Generator().manual_seed(0))
    scores = scores.round() if coarse else scores
    assert torch.equal(largest(scores, 3), scores.sort(dim=1, descending=True).values[:, :3])
