"""GroupOrderingTerm against a slow reading of the paper, and what its sorting network must do."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.objectives.groco import GroupOrderingTerm, soft_sort, trace_back

VARIANTS = [{"num_negatives": 3, "steepness": 10.0}]


def sort_by_hand(values, steepness):
    """Return softly sorted values and the matrix of what goes where, one comparison at a time."""
    width = len(values)
    values, matrix = list(values), torch.eye(width).double()
    for layer in range(width):
        for place in range(layer % 2, width - 1, 2):
            a, b = values[place], values[place + 1]
            theta = 0.5 + math.atan(steepness * (b - a)) / math.pi
            values[place], values[place + 1] = theta * a + (1 - theta) * b, (1 - theta) * a + theta * b
            low, high = matrix[:, place].clone(), matrix[:, place + 1].clone()
            matrix[:, place], matrix[:, place + 1] = theta * low + (1 - theta) * high, (1 - theta) * low + theta * high
    return values, matrix


def groco_by_hand(images, texts, num_negatives, steepness):
    """One anchor at a time; `images` and `texts` are lists of views, the leading one first."""
    size, total = len(images[0]), 0.0
    for i in range(size):
        for own, other in ((images, texts), (texts, images)):
            negatives = sorted(float(own[0][i] @ other[0][j]) for j in range(size) if j != i)[-num_negatives:]
            positives = sorted(float(own[0][i] @ view[i]) for view in other)
            _, matrix = sort_by_hand(negatives + positives, steepness)
            group = matrix[:, len(negatives) :].sum(1).tolist()
            costs = [-math.log(1 - share) for share in group[: len(negatives)]]
            costs += [-math.log(share) for share in group[len(negatives) :]]
            total += sum(costs) / len(costs)
    return total / (2 * size)


@pytest.mark.parametrize("size", [2, 7, 14])
@pytest.mark.parametrize("settings", [{}, {"num_negatives": 3, "steepness": 5.0}])
@pytest.mark.parametrize(("num_images", "num_texts"), [(1, 1), (2, 3)])
def test_matches_paper(size, settings, num_images, num_texts):
    images = [unit(size, 6, seed) for seed in range(num_images)]
    texts = [unit(size, 6, 10 + seed) for seed in range(num_texts)]
    expected = groco_by_hand(images, texts, settings.get("num_negatives", 10), settings.get("steepness", 1.0))
    term = GroupOrderingTerm(**settings)
    value = value_of(term, images[0], texts[0], image_views=tuple(images[1:]), text_views=tuple(texts[1:]))
    assert value == pytest.approx(expected, rel=1e-9)


def test_one_positive_and_one_negative_have_a_closed_form():
    image, text = unit(2, 6, 1), unit(2, 6, 2)
    cosines = image @ text.T
    wrong = torch.stack([cosines.flip(1).diagonal(), cosines.flip(0).diagonal()])
    margins = cosines.diagonal() - wrong
    expected = -(0.5 + margins.arctan() / math.pi).log().mean().item()
    assert value_of(GroupOrderingTerm(), image, text) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("width", [2, 3, 8, 11])
@pytest.mark.parametrize("steepness", [1.0, 30.0])
def test_what_goes_where_is_doubly_stochastic(width, steepness):
    values = unit(5, width, 1)
    ends, comparisons = soft_sort(values, steepness)
    columns = [trace_back(comparisons, mark.expand(5, width)) for mark in torch.eye(width).double()]
    matrix = torch.stack(columns, dim=2)
    assert bool((matrix >= 0).all())
    for dim in (1, 2):
        torch.testing.assert_close(matrix.sum(dim), torch.ones(5, width).double())
    torch.testing.assert_close(torch.einsum("nw,nwp->np", values, matrix), ends)
    by_hand, matrix_by_hand = sort_by_hand(values[0].tolist(), steepness)
    assert ends[0].tolist() == pytest.approx(by_hand)
    torch.testing.assert_close(matrix[0], matrix_by_hand)


@pytest.mark.parametrize("width", [2, 3, 8, 11])
def test_infinite_steepness_sorts(width):
    values = unit(5, width, 1)
    torch.testing.assert_close(soft_sort(values, 1e12)[0], values.sort(dim=1).values)


def test_positives_may_change_places():
    image, text, further = unit(7, 6, 1), unit(7, 6, 2), unit(7, 6, 3)
    views = (further, unit(7, 6, 4))
    one, other = (value_of(GroupOrderingTerm(), image, text, text_views=order) for order in (views, views[::-1]))
    assert one == pytest.approx(other, rel=1e-12)


def test_the_floor_lies_far_above_zero():
    """The positive's cost with ten negatives at -1 and itself at +1."""
    _, comparisons = soft_sort(torch.tensor([[-1.0] * 10 + [1.0]]), 1.0)
    mark = torch.tensor([[0.0] * 10 + [1.0]])
    assert -trace_back(comparisons, mark)[0, -1].log().item() == pytest.approx(0.95, abs=0.01)


def test_candidates_get_no_gradient():
    """An image is moved by its own sorting only: along its candidates, not along texts that chose it."""
    leaves = draw_leaves(7)
    image, text = (leaf.detach() for leaf in leaves[:2])
    row = image[0].clone().requires_grad_()
    cosines = text @ row
    negatives = cosines[1:].sort().values
    values = torch.cat([negatives, cosines[:1]])[None]
    target = torch.tensor([[0.0] * 6 + [1.0]]).double()
    shares = trace_back(soft_sort(values, 1.0)[1], target)
    cost = torch.nn.functional.binary_cross_entropy(shares, target) / 14
    torch.testing.assert_close(gradients_of(GroupOrderingTerm(), leaves)[0][0], torch.autograd.grad(cost, row)[0])


@pytest.mark.parametrize("settings", [{"num_negatives": 0}, {"steepness": 0.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be positive"):
        GroupOrderingTerm(**settings)
