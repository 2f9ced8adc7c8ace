"""RankerDistillationTerm against a slow reading of the paper, and the contrast that it contains."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.ground.types import Teacher
from vlp.objectives.clip import ClipTerm
from vlp.objectives.ranker_distillation import RankerDistillationTerm

VARIANTS = [{"num_negatives": 3, "teacher_scale": 7.0, "adversarial": 0.5}]


def softmax_by_hand(logits):
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def ranker_by_hand(image, text, teacher, scale, teacher_scale, num, adversarial):
    size, total = len(image), 0.0
    for i in range(size):
        for own, other, ours, theirs in (
            (image, text, teacher.image, teacher.text),
            (text, image, teacher.text, teacher.image),
        ):
            wrong = sorted((j for j in range(size) if j != i), key=lambda j: -float(own[i] @ other[j]))[:num]
            candidates = [i, *wrong]
            shares = softmax_by_hand([scale * float(own[i] @ other[j]) for j in candidates])
            ranking = [teacher_scale * float(ours[i] @ theirs[j]) for j in candidates]
            total -= sum(q * math.log(p) for q, p in zip(softmax_by_hand(ranking), shares, strict=True))
            for rank, share in zip(ranking[1:], shares[1:], strict=True):
                total += adversarial * -math.log1p(math.exp(rank - ranking[0])) * math.log(share)
    return total / (2 * size)


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize(("num", "adversarial"), [(1, 0.0), (3, 0.7), (16, 0.3)])
def test_matches_paper(size, num, adversarial):
    image, text, teacher = unit(size, 6, 1), unit(size, 6, 2), Teacher(unit(size, 6, 3), unit(size, 6, 4))
    term = RankerDistillationTerm(num_negatives=num, teacher_scale=4.0, adversarial=adversarial)
    expected = ranker_by_hand(image, text, teacher, 10.0, 4.0, num, adversarial)
    assert value_of(term, image, text, teacher=teacher) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num", [6, 16])
def test_a_sure_teacher_over_all_negatives_is_clip(num):
    leaves = draw_leaves(7)
    sure = Teacher(torch.eye(7).double(), torch.eye(7).double())
    term = RankerDistillationTerm(num_negatives=num, teacher_scale=1e3)
    value = value_of(term, *leaves[:2], teacher=sure)
    assert value == pytest.approx(value_of(ClipTerm(), *leaves[:2]), rel=1e-9)
    torch.testing.assert_close(gradients_of(term, leaves, teacher=sure), gradients_of(ClipTerm(), leaves))


def test_a_teacher_who_says_the_same_moves_nothing():
    leaves = draw_leaves(7)
    teacher = Teacher(leaves[0].detach(), leaves[1].detach())
    for gradient in gradients_of(RankerDistillationTerm(num_negatives=3), leaves, teacher=teacher):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{"num_negatives": 0}, {"teacher_scale": 0.0}, {"adversarial": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be positive"):
        RankerDistillationTerm(**settings)
