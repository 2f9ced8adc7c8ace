"""Boxes are compared as by hand, and the one box for all is a best one."""

from __future__ import annotations

import pytest
import torch

from benchmarks.grounding import best_box, overlaps


def test_overlaps_are_those_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0], [0.6, 0.0, 0.2, 1.0]])
    others = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    assert overlaps(boxes, others).tolist() == pytest.approx([1.0, 1 / 3, 0.25, 0.0])


def test_one_box_for_all_is_better_than_others():
    draws = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    boxes = torch.cat([draws, draws + 0.5], dim=1)
    best = best_box(boxes)
    mean = overlaps(best.expand_as(boxes), boxes).mean()
    assert all(mean >= overlaps(box.expand_as(boxes), boxes).mean() - 0.02 for box in boxes)
    middle = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    assert torch.equal(best_box(middle), middle[0])
