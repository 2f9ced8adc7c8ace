"""MannWhitneyTerm against brute force over all triples, and the area under the curve from the same histogram."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import pairs_of, unit, value_of
from vlp.objectives.clip import ClipTerm
from vlp.objectives.mann_whitney import MannWhitneyTerm, auc
from vlp.pairs import HIST, pair_stats

VARIANTS = [{"temperature": 0.1, "resolution": 8}, {"temperature": 0.1, "resolution": 8, "mined": True}]


def scores_of(image, text):
    """Return all positive and all negative cosines, one at a time."""
    size = len(image)
    positives = [float(image[i] @ text[i]) for i in range(size)]
    return positives, [float(image[i] @ text[j]) for i in range(size) for j in range(size) if i != j]


def mann_whitney_by_hand(image, text, temperature):
    positives, negatives = scores_of(image, text)
    gaps = [(negative - positive) / temperature for positive in positives for negative in negatives]
    return sum(max(gap, 0) + math.log1p(math.exp(-abs(gap))) for gap in gaps) / len(gaps)


@pytest.mark.parametrize("size", [2, 9])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("resolution", [4, 8, 16, 64])
def test_matches_paper(size, temperature, resolution):
    """The chord of softplus over a step of 1 / resolution lies above it by at most a share of step^2 / 8."""
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    value = value_of(MannWhitneyTerm(temperature=temperature, resolution=resolution), image, text)
    expected = mann_whitney_by_hand(image, text, temperature)
    assert 0 <= value - expected <= expected / (8 * resolution**2)


def test_mined_negatives_join_the_others():
    """The paper's N: all mismatched pairs and, for each query, those that were mined for it."""
    image, text, mined = unit(5, 6, 1), unit(5, 6, 2), torch.stack([unit(5, 6, k) for k in (3, 4)], dim=1)
    positives, negatives = scores_of(image, text)
    negatives += [float(image[i] @ mined[i, m]) for i in range(5) for m in range(2)]
    gaps = [(negative - positive) / 0.1 for positive in positives for negative in negatives]
    expected = sum(math.log1p(math.exp(gap)) for gap in gaps) / len(gaps)
    value = value_of(MannWhitneyTerm(temperature=0.1, resolution=64, mined=True), image, text, negatives=mined)
    assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [10.0, 50.0])
def test_two_pairs_cost_what_clip_costs(scale):
    image, text = unit(2, 6, 1), unit(2, 6, 2)
    value = value_of(MannWhitneyTerm(temperature=1 / scale, resolution=256), image, text)
    assert value == pytest.approx(value_of(ClipTerm(), image, text, scale=scale), abs=1e-6)


def test_equal_scores_cost_log_2():
    same = torch.eye(1, 8).repeat(16, 1).double()
    assert value_of(MannWhitneyTerm(), same, same) == pytest.approx(math.log(2), rel=1e-10)


def test_gradient_is_that_of_brute_force():
    leaves = [unit(7, 6, seed).requires_grad_() for seed in (1, 2)]
    cosines = leaves[0] @ leaves[1].T
    negatives = cosines[~torch.eye(7, dtype=torch.bool)]
    exact = torch.nn.functional.softplus((negatives[:, None] - cosines.diagonal()) / 0.05).mean()
    term = MannWhitneyTerm(temperature=0.05, resolution=256)
    pairs = pairs_of(*leaves)
    stats = pair_stats({"image_text": pairs.block("image_text")}, term.requests)
    ours = torch.autograd.grad(term(pairs, stats), leaves)
    torch.testing.assert_close(ours, torch.autograd.grad(exact, leaves), rtol=1e-2, atol=2e-3 * ours[0].abs().max())


def test_an_offset_of_one_query_counts():
    """Where clip's rows see nothing: all scores of one image rise together."""
    image, text = torch.eye(4).double(), 0.2 * torch.eye(4).double()
    raised = text.clone()
    raised[:, 0] += 0.4
    rows = ClipTerm(text_share=0.0)
    assert value_of(rows, image, raised) == pytest.approx(value_of(rows, image, text))
    assert value_of(MannWhitneyTerm(), image, raised) > value_of(MannWhitneyTerm(), image, text) + 1


def histogram_of(image, text, num_bins):
    request = HIST(num_bins)
    pairs = pairs_of(image, text)
    return pair_stats({"b": pairs.block("image_text")}, {"b": (request,)})["b", request], pairs.positive_cosines


def area_by_hand(positives, negatives, offset=0.0):
    wins = [(p + offset > n) + 0.5 * (p + offset == n) for p in positives for n in negatives]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("num_bins", [21, 201, 20001])
def test_area_is_exact_up_to_the_width_of_a_bin(num_bins):
    image, text = unit(9, 6, 1), unit(9, 6, 2)
    area = auc(*histogram_of(image, text, num_bins)).item()
    scores, width = scores_of(image, text), 2 / (num_bins - 1)
    assert area_by_hand(*scores, -1.5 * width) <= area <= area_by_hand(*scores, 1.5 * width)
    if num_bins == 20001:
        assert area == pytest.approx(area_by_hand(*scores), abs=1e-3)


def test_area_is_exact_on_the_grid_and_ties_count_half():
    counts = torch.tensor([0.0, 2.0, 1.0, 3.0, 0.0])
    positives = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    negatives = [-0.5, -0.5, 0.0, 0.5, 0.5, 0.5]
    assert auc(counts, positives).item() == pytest.approx(area_by_hand(positives.tolist(), negatives))


def test_the_loss_bounds_the_area():
    for seed in range(5):
        image, text = unit(9, 6, seed), unit(9, 6, seed + 50)
        loss = value_of(MannWhitneyTerm(), image, text)
        assert 1 - area_by_hand(*scores_of(image, text)) <= loss / math.log(2)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"resolution": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be positive"):
        MannWhitneyTerm(**settings)
