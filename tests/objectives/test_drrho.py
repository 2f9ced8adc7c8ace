"""ReferenceContrastTerm against a slow reading over several batches, and what the reference decides."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from tests.objectives.test_sogclr import batches
from vlp.ground.types import Teacher
from vlp.objectives.drrho import ReferenceContrastTerm
from vlp.objectives.sogclr import GlobalContrastTerm

VARIANTS = [{"gamma": 0.2, "gamma_steps": 4, "budget": 1.0}]
SCALE = 5.0


def READING(b, budget=None, **_settings):
    """That of `sogclr`, on the excess over the teacher."""
    from tests.objectives import twins  # which imports the tests of all terms

    teacher = b.more["teacher"]
    longer = torch.cat([b.image, -teacher.image], 1), torch.cat([b.text, teacher.text], 1)
    return twins.sogclr(twins.Whole(*longer, b.scale, b.bias, b.ids), budget)


def teacher_of(seed: int, size: int = 5, width: int = 4) -> Teacher:
    return Teacher(unit(size, width, seed + 100), unit(size, width, seed + 200))


def gaps_by_hand(image, text, teacher):
    """How much better each wrong partner fits than the right one, beyond what the reference thinks, by direction."""
    size = len(image)
    found = []
    for own, other, mine, theirs in (
        (image, text, teacher.image, teacher.text),
        (text, image, teacher.text, teacher.image),
    ):
        rows = [
            [
                (own[i] @ other[j] - own[i] @ other[i]) - float(mine[i] @ theirs[j] - mine[i] @ theirs[i])
                for j in range(size)
                if j != i
            ]
            for i in range(size)
        ]
        found.append(rows)
    return found


@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_matches_paper_over_several_batches(gamma):
    """The gradient of sum_j w_ij d_ij / u_i, with weights w = exp(d / tau) held fixed, u averaged by sample."""
    term, memory = ReferenceContrastTerm(gamma=gamma), {}
    for number, (ids, image, text) in enumerate(batches()):
        teacher = teacher_of(number)
        leaves = [image.clone().requires_grad_(), text.clone().requires_grad_(), *draw_leaves(1, scale=SCALE)[2:]]
        total = 0.0
        for side, rows in enumerate(gaps_by_hand(*leaves[:2], teacher)):
            for key, row in zip(ids.tolist(), rows, strict=True):
                weights = [math.exp(SCALE * gap.item()) for gap in row]
                new = sum(weights) / len(row)
                old = memory.get((key, side), new)
                memory[key, side] = (1 - gamma) * old + gamma * new
                for gap, weight in zip(row, weights, strict=True):
                    total = total + weight * gap / memory[key, side] / len(row) / (2 * len(ids))
        ours = gradients_of(term, leaves, ids=ids, teacher=teacher)[:2]
        torch.testing.assert_close(ours, list(torch.autograd.grad(total, leaves[:2])), rtol=1e-6, atol=1e-8)


def test_a_reference_that_tells_nothing_apart_is_sogclr():
    leaves, same = draw_leaves(7, scale=SCALE), unit(1, 4, 1).repeat(7, 1)
    ours = gradients_of(ReferenceContrastTerm(gamma=0.7), leaves, teacher=Teacher(same, same))
    theirs = gradients_of(GlobalContrastTerm(gamma=0.7), leaves)
    torch.testing.assert_close(ours, theirs)


def test_a_negative_that_the_reference_confuses_too_is_pushed_less():
    """All negatives are equally hard for the model; the reference takes the first for a match as well."""
    image, text = torch.eye(4, 4).double(), torch.full((4, 4), 0.5).double()
    seen = torch.eye(4).double()
    read = torch.nn.functional.normalize(seen + torch.eye(4)[[1, 0, 2, 3]], dim=1)  # 0 and 1 are one thing to it
    leaves = [image.requires_grad_(), text.requires_grad_(), *draw_leaves(1, scale=SCALE)[2:]]
    by_image = gradients_of(ReferenceContrastTerm(), leaves, teacher=Teacher(seen, read))[1]
    towards_first = [float(by_image[j, 0]) for j in (1, 2, 3)]  # by the image 0, whose double is 1
    assert towards_first[0] < 0.1 * towards_first[1]


def test_the_scale_learns_as_the_whole_difference_asks():
    """By finite differences of temperature * (log mean exp(excess / temperature) + budget)."""
    leaves = draw_leaves(6, scale=SCALE)
    teacher = teacher_of(3, size=6)
    *_, by_scale, _ = gradients_of(ReferenceContrastTerm(budget=1.5), leaves, teacher=teacher)

    def risk(scale: float) -> float:
        total = 0.0
        for rows in gaps_by_hand(*(leaf.detach() for leaf in leaves[:2]), teacher):
            for row in rows:
                total += (math.log(sum(math.exp(scale * float(gap)) for gap in row) / len(row)) + 1.5) / scale
        return total / 12

    step = 1e-4
    assert by_scale.item() == pytest.approx((risk(SCALE + step) - risk(SCALE - step)) / (2 * step), rel=1e-5)


def test_finite_where_reference_and_model_contradict_each_other():
    leaves = draw_leaves(5, scale=100.0, dtype=torch.float32)
    opposite = Teacher(leaves[0].detach(), -leaves[1].detach())
    assert math.isfinite(value_of(ReferenceContrastTerm(), *leaves[:2], scale=100.0, teacher=opposite))


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        ReferenceContrastTerm(budget=-1.0)
