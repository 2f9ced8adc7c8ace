"""TeacherContrastTerm against a slow reading of the paper, and the contrast that it contains."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.ground.types import Teacher
from vlp.objectives.clip import ClipTerm
from vlp.objectives.teacher_contrast import TeacherContrastTerm

VARIANTS = [{"replayed": True}]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_matches_paper(size):
    image, text, teacher = unit(size, 6, 1), unit(size, 6, 2), Teacher(unit(size, 6, 3), unit(size, 6, 4))
    total = 0.0
    for i in range(size):
        for own, other, taught in ((image, text, teacher.text), (text, image, teacher.image)):
            right = math.exp(10 * float(own[i] @ taught[i]))
            wrong = sum(math.exp(10 * float(own[i] @ other[j])) for j in range(size) if j != i)
            total -= math.log(right / (right + wrong))
    value = value_of(TeacherContrastTerm(), image, text, teacher=teacher)
    assert value == pytest.approx(total / (2 * size), rel=1e-9)


def test_replayed_samples_alone_are_anchors():
    """They meet the whole batch as negatives; without any the loss is nothing."""
    image, text, teacher = unit(6, 6, 1), unit(6, 6, 2), Teacher(unit(6, 6, 3), unit(6, 6, 4))
    replayed, total = torch.tensor([True, False, False, True, False, False]), 0.0
    for i in (0, 3):
        for own, other, taught in ((image, text, teacher.text), (text, image, teacher.image)):
            right = math.exp(10 * float(own[i] @ taught[i]))
            total -= math.log(
                right / (right + sum(math.exp(10 * float(own[i] @ other[j])) for j in range(6) if j != i))
            )
    term = TeacherContrastTerm(replayed=True)
    assert value_of(term, image, text, teacher=teacher, replayed=replayed) == pytest.approx(total / 4)
    assert value_of(term, image, text, teacher=teacher, replayed=torch.zeros(6, dtype=torch.bool)) == 0


def test_a_teacher_who_says_the_same_leaves_clip():
    leaves = draw_leaves(7)
    teacher = Teacher(leaves[0].detach(), leaves[1].detach())
    value = value_of(TeacherContrastTerm(), *leaves[:2], teacher=teacher)
    assert value == pytest.approx(value_of(ClipTerm(), *leaves[:2]), rel=1e-12)


def test_positives_pull_their_anchor_alone():
    """An image is pulled along the teacher of its text, and gets nothing from where it is the teacher's turn."""
    image, text, scale, bias = draw_leaves(7)
    teacher = Teacher(unit(7, 6, 3), unit(7, 6, 4))
    found = gradients_of(TeacherContrastTerm(), [image, text, scale, bias], teacher=teacher)
    right = (10 * (image * teacher.text).sum(1)).detach()
    rows = (10 * image @ text.T).detach()
    rows[range(7), range(7)] = right
    columns = (10 * image @ text.T).detach()
    columns[range(7), range(7)] = (10 * (text * teacher.image).sum(1)).detach()
    off = 1 - torch.eye(7).double()
    push = 10 * ((rows.softmax(1) + columns.softmax(0)) * off) @ text.detach()
    pull = 10 * (1 - rows.softmax(1).diagonal())[:, None] * teacher.text
    torch.testing.assert_close(found[0], (push - pull) / 14)
