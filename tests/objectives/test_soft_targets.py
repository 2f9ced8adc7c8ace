"""SoftTargetsTerm against a slow reading, and the teacher that asks for nothing."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from tests.objectives.test_ranker_distillation import softmax_by_hand
from vlp.ground.types import Teacher
from vlp.objectives.clip import ClipTerm
from vlp.objectives.soft_targets import SoftTargetsTerm

VARIANTS = [{"teacher_scale": 7.0}]


def soft_targets_by_hand(image, text, teacher, scale, teacher_scale):
    size, total = len(image), 0.0
    for i in range(size):
        for own, other, ours, theirs in (
            (image, text, teacher.image, teacher.text),
            (text, image, teacher.text, teacher.image),
        ):
            shares = softmax_by_hand([scale * float(own[i] @ row) for row in other])
            targets = softmax_by_hand([teacher_scale * float(ours[i] @ row) for row in theirs])
            total += sum(q * math.log(q / p) for q, p in zip(targets, shares, strict=True))
    return total / (2 * size)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("teacher_scale", [None, 3.0])
def test_matches_the_divergence(size, teacher_scale):
    image, text, teacher = unit(size, 6, 1), unit(size, 6, 2), Teacher(unit(size, 4, 3), unit(size, 4, 4))
    expected = soft_targets_by_hand(image, text, teacher, 10.0, teacher_scale or 10.0)
    value = value_of(SoftTargetsTerm(teacher_scale=teacher_scale), image, text, teacher=teacher)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("teacher_scale", [None, 10.0])
def test_a_teacher_who_says_the_same_asks_for_nothing(teacher_scale):
    leaves = draw_leaves(7)
    teacher = Teacher(leaves[0].detach(), leaves[1].detach())
    term = SoftTargetsTerm(teacher_scale=teacher_scale)
    assert value_of(term, *leaves[:2], teacher=teacher) == pytest.approx(0.0, abs=1e-12)
    for gradient in gradients_of(term, leaves, teacher=teacher):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_a_sure_teacher_is_clip():
    leaves = draw_leaves(7)
    sure, term = Teacher(torch.eye(7).double(), torch.eye(7).double()), SoftTargetsTerm(teacher_scale=1e3)
    assert value_of(term, *leaves[:2], teacher=sure) == pytest.approx(value_of(ClipTerm(), *leaves[:2]), rel=1e-9)
    torch.testing.assert_close(gradients_of(term, leaves, teacher=sure), gradients_of(ClipTerm(), leaves))


def test_weights_of_a_steep_teacher_do_not_overflow():
    """exp(scale * cosine) alone would: single precision ends at exp(88)."""
    image, text = unit(9, 6, 1, torch.float32), unit(9, 6, 2, torch.float32)
    teacher = Teacher(unit(9, 6, 3, torch.float32), unit(9, 6, 4, torch.float32))
    value = value_of(SoftTargetsTerm(teacher_scale=1000.0), image, text, scale=100.0, teacher=teacher)
    double = [rows.double() for rows in (image, text, teacher.image, teacher.text)]
    exact = value_of(
        SoftTargetsTerm(teacher_scale=1000.0), *double[:2], scale=100.0, teacher=Teacher(double[2], double[3])
    )
    assert value == pytest.approx(exact, rel=1e-4)


def test_a_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        SoftTargetsTerm(teacher_scale=0.0)
