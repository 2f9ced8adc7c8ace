"""Free embeddings that start as two cones: which terms close the gap between the modalities."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.objectives.batches import one, pairs_of
from vlp.objectives.alignment import AlignmentTerm
from vlp.objectives.base import Objective
from vlp.objectives.clip import ClipTerm
from vlp.objectives.dcl import DclTerm
from vlp.objectives.uniformity import UniformityTerm


def geometry_after(scale, *parts, steps=500):
    """Train 128 free pairs in 32 dimensions; return the distance of the centroids and the mean pair distance."""
    generator = torch.Generator().manual_seed(0)
    cones = [torch.randn(1, 32, generator=generator) for _ in range(2)]
    points = [functional.normalize(cone + 0.5 * torch.randn(128, 32, generator=generator), dim=1) for cone in cones]
    image, text = (nn.Parameter(point) for point in points)
    optimizer = torch.optim.Adam([image, text], lr=2e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    objective = Objective({str(k): (part, one) for k, part in enumerate(parts)})
    for step in range(steps):
        optimizer.zero_grad()
        objective(pairs_of(*(functional.normalize(p, dim=1) for p in (image, text)), scale), step)[0].backward()
        optimizer.step()
        decay.step()
    with torch.no_grad():
        image, text = functional.normalize(image, dim=1), functional.normalize(text, dim=1)
        return (image.mean(0) - text.mean(0)).norm().item(), (image - text).square().sum(1).mean().item()


def test_cold_clip_leaves_a_gap():
    gap, alignment = geometry_after(100.0, ClipTerm())
    assert 0.7 < gap < 0.9
    assert alignment > 0.7


def test_warmer_clip_leaves_less():
    gap, _ = geometry_after(1 / 0.07, ClipTerm())
    assert 0.2 < gap < 0.45


@pytest.mark.parametrize("spread", [[], [UniformityTerm()]])
def test_alignment_closes_the_gap(spread):
    gap, alignment = geometry_after(100.0, ClipTerm(), AlignmentTerm(), *spread)
    assert gap < 0.01
    assert alignment < 0.01


def test_spreading_alone_moves_centroids_but_not_pairs():
    gap, alignment = geometry_after(100.0, ClipTerm(), UniformityTerm())
    assert gap < 0.05
    assert alignment > 0.4


def test_decoupling_closes_both():
    gap, alignment = geometry_after(1 / 0.07, DclTerm())
    assert gap < 0.01
    assert alignment < 0.01
