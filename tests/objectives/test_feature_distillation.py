"""FeatureDistillationTerm against a slow reading of the paper, and the teacher that asks for nothing."""

from __future__ import annotations

import pytest

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.ground.types import Teacher
from vlp.objectives.feature_distillation import FeatureDistillationTerm


def test_matches_paper():
    """The authors' sum over a batch of 7, divided by 7."""
    image, text, teacher = unit(7, 6, 1), unit(7, 6, 2), Teacher(unit(7, 6, 3), unit(7, 6, 4))
    total = 0.0
    for own, taught in ((image, teacher.image), (text, teacher.text)):
        for row, target in zip(own.tolist(), taught.tolist(), strict=True):
            total += sum((a - b) ** 2 for a, b in zip(row, target, strict=True))
    assert value_of(FeatureDistillationTerm(), image, text, teacher=teacher) == pytest.approx(total / 7, rel=1e-9)


def test_a_teacher_who_says_the_same_asks_for_nothing():
    term, leaves = FeatureDistillationTerm(), draw_leaves(7)
    teacher = Teacher(leaves[0].detach(), leaves[1].detach())
    assert value_of(term, *leaves[:2], teacher=teacher) == 0.0
    assert not any(bool(gradient.any()) for gradient in gradients_of(term, leaves, teacher=teacher))
