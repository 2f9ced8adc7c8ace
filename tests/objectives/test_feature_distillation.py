"""FeatureDistillationTerm against a slow reading of the paper, and the teacher that asks for nothing."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.ground.types import Teacher
from vlp.objectives.feature_distillation import FeatureDistillationTerm

VARIANTS = [{"sum_over": 256}]


def test_matches_paper():
    """The authors' sum over a batch of 7, divided by 7."""
    image, text, teacher = unit(7, 6, 1), unit(7, 6, 2), Teacher(unit(7, 6, 3), unit(7, 6, 4))
    total = 0.0
    for own, taught in ((image, teacher.image), (text, teacher.text)):
        for row, target in zip(own.tolist(), taught.tolist(), strict=True):
            total += sum((a - b) ** 2 for a, b in zip(row, target, strict=True))
    assert value_of(FeatureDistillationTerm(), image, text, teacher=teacher) == pytest.approx(total / 7, rel=1e-9)


def test_wrong_captions_count_where_the_teacher_reads_them():
    image, text, own, theirs = (unit(7, 6, k) for k in range(4))
    teacher = Teacher(unit(7, 6, 5), unit(7, 6, 6), theirs[:, None])
    unread = value_of(FeatureDistillationTerm(), image, text, teacher=Teacher(teacher.image, teacher.text))
    read = value_of(FeatureDistillationTerm(), image, text, teacher=teacher, negatives=own[:, None])
    assert read - unread == pytest.approx((own - theirs).square().sum().item() / 7)


def test_a_weight_fitted_to_a_sum_means_the_same_at_any_batch():
    image, text, teacher = unit(8, 6, 1), unit(8, 6, 2), Teacher(unit(8, 6, 3), unit(8, 6, 4))
    summed = 8 * value_of(FeatureDistillationTerm(), image, text, teacher=teacher)
    assert value_of(FeatureDistillationTerm(sum_over=8), image, text, teacher=teacher) == pytest.approx(summed)
    twice = [torch.cat([rows, rows]) for rows in (image, text, teacher.image, teacher.text)]
    of_twice = value_of(FeatureDistillationTerm(sum_over=8), *twice[:2], teacher=Teacher(*twice[2:]))
    assert of_twice == pytest.approx(summed)


def test_a_teacher_who_says_the_same_asks_for_nothing():
    term, leaves = FeatureDistillationTerm(), draw_leaves(7)
    teacher = Teacher(leaves[0].detach(), leaves[1].detach())
    assert value_of(term, *leaves[:2], teacher=teacher) == 0.0
    assert not any(bool(gradient.any()) for gradient in gradients_of(term, leaves, teacher=teacher))
