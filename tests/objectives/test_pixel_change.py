"""PixelChangeTerm: a mean over images of what an auto-encoder did to each."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, extras, pairs_of, share_of, unit
from vlp.objectives.pixel_change import PixelChangeTerm

NO_TOWER = [{}]
NO_NEGATIVES = "each image and what stands in front of the tower"


def value(changes):
    return share_of(PixelChangeTerm(), pairs_of(unit(3, DIM, 1), unit(3, DIM, 2), pixel_changes=changes))


def test_every_image_weighs_the_same():
    changes = torch.tensor([6.0, 0.0, 1.5], dtype=torch.float64, requires_grad=True)
    found = value(changes)
    found.backward()
    assert found.item() == pytest.approx((6.0 + 0.0 + 1.5) / 3)
    assert changes.grad.tolist() == pytest.approx([1 / 3] * 3)


def test_an_image_that_cannot_be_told_spoils_the_step():
    more = extras(4)
    with torch.no_grad():
        more["pixel_changes"][2] = torch.nan
    assert not share_of(PixelChangeTerm(), pairs_of(*draw_leaves(4), **more)).isfinite()
