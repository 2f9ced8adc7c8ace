"""CoreTuningTerm against a reading of the paper in loops over samples, and what it is without classes to mix."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from tests.objectives.batches import DIM, draw_leaves, pairs_of, share_of, unit
from vlp.ground.draws import uniform
from vlp.objectives import core_tuning
from vlp.objectives.core_tuning import SALT, CoreTuningTerm

VARIANTS = [{"contrast_weight": 0.5, "width": 4}]


def READING(b, term, contrast_weight=10.0, temperature=0.07, **_settings):
    """Section 4, one image at a time; rows of one sample are nothing to each other."""
    labels = b.more["caption_ids"].tolist()
    draws = uniform(b.ids, 0, SALT, 4).tolist()
    total = torch.zeros(())
    for i in range(b.size):
        others = [j for j in range(b.size) if b.ids[j] != b.ids[i]]
        positives = [j for j in others if labels[j] == labels[i]]
        negatives = [j for j in others if labels[j] != labels[i]]
        hard = min(positives, key=lambda j: (b.image[i] @ b.image[j]).item(), default=i)
        mixes = [(b.image[hard], labels[i], 1.0), (b.image[i], labels[i], 1.0)]
        if negatives:
            near = max(negatives, key=lambda j: (b.image[i] @ b.image[j]).item())
            far = min(negatives, key=lambda j: (draws[j][3] - draws[i][2]) % 1)
            share = 1 - max(draws[i][1], 0.8)
            mixes[0] = mixed(b.image[hard], b.image[near], draws[i][0]), labels[near], draws[i][0]
            mixes[1] = mixed(b.image[i], b.image[far], share), labels[far], share
        told = -log_class(b, i, b.image[i], labels[i])
        for row, label, share in mixes:
            told = told - share * log_class(b, i, row, labels[i]) - (1 - share) * log_class(b, i, row, label)
        h = [behind(term, row) for row in (b.image[i], mixes[0][0], mixes[1][0])]
        near_positive = torch.exp(h[0] @ h[1] / temperature)
        parts = {j: torch.exp(h[0] @ behind(term, b.image[j]) / temperature) for j in others}
        below = near_positive + sum(parts.values()) + (torch.exp(h[0] @ h[2] / temperature) if negatives else 0)
        shares = [part / below for part in (near_positive, *(parts[j] for j in positives))]
        focal = -sum((1 - share) * share.log() for share in shares) / len(shares)
        total = total + (told / 3 + contrast_weight * focal) / b.size
    return total


def mixed(one, other, share):
    return normalize(share * one + (1 - share) * other, dim=0)


def behind(term, row):
    return normalize(term.last(term.hidden(row).relu()), dim=0)


def log_class(b, i, row, label):
    """Return the logarithm of the share of a class among those of the texts that are not of the same sample."""
    labels = b.more["caption_ids"].tolist()
    weights = {
        j: torch.exp(b.scale * row @ b.text[j]) / labels.count(labels[j])
        for j in range(b.size)
        if j == i or b.ids[j] != b.ids[i]
    }
    return torch.log(sum(weights[j] for j in weights if labels[j] == label) / sum(weights.values()))


def value(labels, image, **settings):
    text = unit(len(labels), DIM, 2)
    term = CoreTuningTerm(**settings)
    torch.manual_seed(0)
    term.create(DIM)
    return share_of(term.double(), pairs_of(image, text, caption_ids=torch.tensor(labels))).item()


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 0], [0, 1, 2, 3, 4, 5]])
def test_matches_paper(labels):
    from tests.objectives.twins import Whole  # which imports the tests of all terms

    image, text, scale, bias = draw_leaves(6)
    term = CoreTuningTerm(**VARIANTS[0])
    term.create(DIM)
    term.double()
    classes = {"caption_ids": torch.tensor(labels)}
    wanted = READING(Whole(image, text, scale, bias, torch.arange(6), more=classes), term, **VARIANTS[0])
    found = share_of(term, pairs_of(image, text, scale, bias, **classes))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)


def test_one_class_has_nothing_to_tell_apart():
    assert value([3, 3, 3], unit(3, DIM, 1), contrast_weight=0.0) == pytest.approx(0.0, abs=1e-12)


def test_images_alike_among_classes_that_differ_cost_the_most():
    """Where all images are equal, a positive is one of all, and the focus is at its sharpest."""
    same = unit(1, DIM, 1).expand(4, DIM)
    apart = value([0, 0, 1, 1], same, contrast_weight=1.0) - value([0, 0, 1, 1], same, contrast_weight=0.0)
    assert apart == pytest.approx((1 - 1 / 5) * math.log(5), rel=1e-6)  # of three others and two mixes


def test_batches_that_are_too_large_are_refused(monkeypatch):
    monkeypatch.setattr(core_tuning, "MOST_PAIRS", 2)
    with pytest.raises(ValueError, match="3 pairs"):
        value([0, 1, 1], unit(3, DIM, 1))


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"width": 0}, {"contrast_weight": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        CoreTuningTerm(**settings)
