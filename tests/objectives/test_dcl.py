"""DclTerm against a slow reading of the paper, and the identities that name it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit, value_of
from vlp.objectives.clip import ClipTerm
from vlp.objectives.dcl import DclTerm

VARIANTS = [{"intra": True}]


def dcl_by_hand(image, text, scale, intra):
    """Equation 6 in both directions: negatives of the other modality, and with `intra` of the own."""
    size, total = len(image), 0.0
    for i in range(size):
        for own, other in ((image, text), (text, image)):
            others = [j for j in range(size) if j != i]
            denominator = sum(math.exp(scale * float(own[i] @ other[j])) for j in others)
            if intra:
                denominator += sum(math.exp(scale * float(own[i] @ own[j])) for j in others)
            total += math.log(denominator) - scale * float(own[i] @ other[i])
    return total / (2 * size)


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("intra", [False, True])
def test_matches_paper(size, intra):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    assert value_of(DclTerm(intra=intra), image, text) == pytest.approx(
        dcl_by_hand(image, text, 10.0, intra), rel=1e-10
    )


def test_is_clip_plus_log_of_one_minus_p():
    image, text = unit(9, 6, 1), unit(9, 6, 2)
    logits = 10 * image @ text.T
    shares = torch.stack([logits.softmax(1).diagonal(), logits.softmax(0).diagonal()])
    expected = value_of(ClipTerm(), image, text) + torch.log1p(-shares).mean().item()
    assert value_of(DclTerm(), image, text) == pytest.approx(expected, rel=1e-10)


def test_the_pull_on_a_pair_never_fades():
    """Orthonormal pairs that clip has learned: the gradient along each pair stays scale / size."""
    eye = torch.eye(8).double()
    leaves = [eye.clone().requires_grad_(), eye.clone().requires_grad_(), *draw_leaves(1, scale=50.0)[2:]]
    image, *_ = gradients_of(DclTerm(), leaves)
    assert image.diagonal().tolist() == pytest.approx([-50 / 8] * 8)


def final_scale(term, steps=160):
    """Train 128 free pairs and a scale that starts at 1 / 0.07; return where the scale ends."""
    generator = torch.Generator().manual_seed(0)
    image, text = (nn.Parameter(torch.randn(128, 32, generator=generator)) for _ in range(2))
    log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    optimizer = torch.optim.Adam([image, text, log_scale], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        pairs = pairs_of(functional.normalize(image, dim=1), functional.normalize(text, dim=1), log_scale.exp())
        share_of(term, pairs).backward()
        optimizer.step()
        with torch.no_grad():
            log_scale.clamp_(0, math.log(100))
    return log_scale.exp().item()


def test_a_learnable_scale_runs_further_than_under_clip():
    """The reason for `fixed_scale_advised`; after 160 steps, enough for dcl to come near its clamp of 100."""
    assert final_scale(DclTerm()) > 50 > 30 > final_scale(ClipTerm())
