"""The one box for all is a best one, and captions are exchanged between images that show as many regions."""

from __future__ import annotations

import pytest
import torch

from benchmarks.grounding import best_box, mean_overlap, share_right, told_of_others
from tests.evaluators.sets import opened, write_regions
from vlp.evaluators.grounding import overlaps, score_boxes

LEFT = (0.0, 0.0, 0.5, 1.0)


def test_one_box_for_all_is_better_than_others():
    draws = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    boxes = torch.cat([draws, draws + 0.5], dim=1)
    best = best_box(boxes, mean_overlap)
    mean = overlaps(best.expand_as(boxes), boxes).mean()
    assert all(mean >= overlaps(box.expand_as(boxes), boxes).mean() - 0.02 for box in boxes)
    middle = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    assert torch.equal(best_box(middle, mean_overlap), middle[0])


def test_the_square_that_is_right_most_often_need_not_overlap_most():
    boxes = torch.tensor([[0.0, 0.0, 0.25, 0.25], [0.0, 0.0, 0.25, 0.25], [0.0, 0.0, 1.0, 1.0]])
    right = score_boxes(best_box(boxes, share_right).expand_as(boxes), boxes)
    assert right.metrics[0].value == pytest.approx(2 / 3)
    near = score_boxes(best_box(boxes, mean_overlap).expand_as(boxes), boxes)
    assert near.metrics[1].value >= right.metrics[1].value


def test_images_are_told_of_each_other(tmp_path):
    captions = [["a", "b"], ["c"], ["d", "e"], ["f"], [], [*"ghijklmn"]]
    data = opened(write_regions(tmp_path / "parts.yaml", [[(LEFT, text) for text in listed] for listed in captions]))
    assert told_of_others(data).captions == (("d", "e"), ("f",), ("a", "b"), ("c",), (), (*"abcdefab",))
