"""MaskedPredictionTerm against a slow reading, a patch at a time, and what learns of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import gelu, linear, normalize

from tests.objectives.batches import DIM, extras, pairs_of, share_of, unit
from vlp.objectives.masked_prediction import MaskedPredictionTerm

SIZES = {"num_prototypes": 5, "hidden_width": 6, "bottleneck": 4}
VARIANTS = [SIZES, SIZES | {"center_memory": 0.5, "decay": 0.5}]
NO_TOWER = [{}, *VARIANTS]
NO_NEGATIVES = "every patch is compared with prototypes and with itself alone"


def built(**settings) -> MaskedPredictionTerm:
    torch.manual_seed(0)
    term = MaskedPredictionTerm(**(SIZES | settings))
    term.fit_maps(DIM)
    term.create(8)
    return term.double()


def batch(size=4):
    more = {key: value for key, value in extras(size).items() if key.endswith("_patches")}
    return pairs_of(unit(size, DIM, 1), unit(size, DIM, 2), **more)


def cosines_by_hand(parameters, row):
    for place in range(3):
        row = linear(row, parameters[f"layers.{place}.weight"], parameters[f"layers.{place}.bias"])
        row = gelu(row) if place < 2 else row
    return [float(normalize(row, dim=0) @ normalize(each, dim=0)) for each in parameters["prototypes"]]


def missed_by_hand(guess, target, center):
    """Return the cross entropy of one patch."""
    shares = [math.exp((value - c) / 0.04) for value, c in zip(target, center, strict=True)]
    below = math.log(sum(math.exp(value / 0.1) for value in guess))
    return -sum(share * (value / 0.1 - below) for share, value in zip(shares, guess, strict=True)) / sum(shares)


@torch.no_grad()
def test_matches_paper_over_steps():
    """Between batches the head moves: averages, center and loss by loops over patches."""
    term = built(center_memory=0.7, decay=0.6)
    head = term.prototypes.head
    averages = {name: value.clone() for name, value in head.named_parameters()}
    center = [0.0] * 5
    for size in (4, 2):
        pairs = batch(size)
        for name, value in head.named_parameters():
            value += 0.1 * torch.randn_like(value)
            averages[name] = 0.6 * averages[name] + 0.4 * value
        said = pairs.embeddings
        guesses = [cosines_by_hand(dict(head.named_parameters()), row) for row in said.hidden_patches.flatten(0, 1)]
        targets = [cosines_by_hand(averages, row) for row in said.taught_patches.flatten(0, 1)]
        missed = [missed_by_hand(guess, target, center) for guess, target in zip(guesses, targets, strict=True)]
        assert share_of(term, pairs).item() == pytest.approx(sum(missed) / (3 * size), rel=1e-9)
        means = [sum(column) / (3 * size) for column in zip(*targets, strict=True)]
        center = [0.7 * c + 0.3 * mean for c, mean in zip(center, means, strict=True)]


def test_the_tower_that_sees_the_patches_learns_nothing():
    pairs = batch()
    taught = pairs.embeddings.taught_patches.requires_grad_()
    share_of(built(), pairs).backward()
    assert pairs.embeddings.hidden_patches.grad.abs().sum() > 0
    assert taught.grad is None or not taught.grad.any()


@pytest.mark.parametrize("settings", [{"bottleneck": 0}, {"temperature": 0.0}, {"center_memory": 1.5}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"must be positive|must lie in"):
        MaskedPredictionTerm(**settings)
