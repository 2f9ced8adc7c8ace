"""Geometry against plain loops, closed forms, and its invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from tests.evaluators.kinds import slopes, values_of
from tests.evaluators.sets import HashEncoder, opened, unit, write_captions
from vlp.evaluators import moments
from vlp.evaluators.geometry import Geometry, count_negatives, gap_mmd, log_kernel, measure
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError


def draw(size=60, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = unit(torch.randn(size, width, generator=generator) + 0.3)
    return images, unit(images + 0.5 * torch.randn(size, width, generator=generator) - 0.2)


def test_equals_plain_loops():
    images, texts = draw()
    found = values_of(measure(images, texts))
    x, y = images.double().numpy(), texts.double().numpy()
    size = len(x)
    others = [(i, j) for i in range(size) for j in range(size) if i != j]

    def kernel(a, b):
        return math.log(np.mean([math.exp(-2 * np.sum((a[i] - b[j]) ** 2)) for i, j in others]))

    expected = {
        "modality_gap": np.linalg.norm(x.mean(0) - y.mean(0)),
        "alignment": np.mean([np.sum((x[i] - y[i]) ** 2) for i in range(size)]),
        "uniformity_image": kernel(x, x),
        "uniformity_text": kernel(y, y),
        "cross_uniformity": kernel(x, y),
        "gap_mmd": math.exp(kernel(x, x)) + math.exp(kernel(y, y)) - 2 * math.exp(kernel(x, y)),
        "mean_cosine_image": np.mean([x[i] @ x[j] for i, j in others]),
        "mean_cosine_text": np.mean([y[i] @ y[j] for i, j in others]),
        "mean_cosine_cross": np.mean([x[i] @ y[j] for i in range(size) for j in range(size)]),
        "positive_mean": np.mean([x[i] @ y[i] for i in range(size)]),
        "negative_mean": np.mean([x[i] @ y[j] for i, j in others]),
    }
    # Norms of float32 rows are one to 1e-7 only, which separates |x-y|^2 from 2 - 2xy.
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_auc_is_the_mann_whitney_statistic_with_ties():
    images, texts = (unit((rows * 3).round() + 1e-3) for rows in draw(width=3))
    scores = images.double() @ texts.double().T
    outside = ~torch.eye(len(images), dtype=torch.bool)
    expected = mannwhitneyu(scores.diagonal(), scores[outside]).statistic / (len(images) * int(outside.sum()))
    positives = (images.double() * texts.double()).sum(1)
    assert values_of(measure(images, texts))["auc"] == pytest.approx(expected, abs=2e-3)  # 1 ulp splits some ties
    assert len(positives.unique()) < len(positives)


def test_rotating_both_modalities_changes_nothing():
    images, texts = draw()
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)).double()).Q
    turned = values_of(measure(images.double() @ rotation, texts.double() @ rotation))
    assert turned == pytest.approx(values_of(measure(images, texts)), abs=1e-6)


def test_a_collapsed_space():
    same = torch.eye(1, 8).repeat(20, 1)
    found = values_of(measure(same, same))
    for name in ("modality_gap", "alignment", "uniformity_image", "cross_uniformity", "gap_mmd"):
        assert found[name] == pytest.approx(0, abs=1e-12), name
    assert found["mean_cosine_image"] == pytest.approx(1)
    assert found["effective_rank_image"] == pytest.approx(1)
    assert found["auc"] == 0.5
    assert found["overlap"] == 1


def test_a_regular_simplex_has_the_uniformity_of_the_formula():
    size = 6
    corners = unit(torch.eye(size).double() - 1 / size)
    assert log_kernel(corners, corners).value == pytest.approx(-4 * size / (size - 1))


def test_an_antipodal_pair_has_uniformity_minus_eight():
    pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    assert log_kernel(pair, pair).value == pytest.approx(-8)


def test_orthonormal_rows_have_full_effective_rank():
    found = values_of(measure(torch.eye(12), torch.eye(12)))
    assert found["effective_rank_image"] == pytest.approx(12)
    assert found["auc"] == 1


def test_random_directions_have_the_uniformity_of_their_dimension():
    rows = unit(torch.randn(800, 512, generator=torch.Generator().manual_seed(0)))
    assert values_of(measure(rows, rows))["uniformity_image"] == pytest.approx(-3.984, abs=2e-3)  # sampling error


def test_the_gap_follows_from_the_mean_cosines():
    images, texts = draw()
    found = values_of(measure(images, texts))
    size = len(images)
    same = [(found[f"mean_cosine_{side}"] * (size - 1) + 1) / size for side in ("image", "text")]
    assert found["modality_gap"] ** 2 == pytest.approx(sum(same) - 2 * found["mean_cosine_cross"], abs=1e-6)


def test_two_cones_are_told_apart_and_one_cloud_is_not():
    rows = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    other = torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    shift = torch.zeros(16).index_fill(0, torch.tensor([0]), 8.0)
    assert values_of(measure(unit(rows + shift), unit(other - shift)))["modality_accuracy"] == 1
    assert 0.3 < values_of(measure(unit(rows), unit(other)))["modality_accuracy"] < 0.7


def test_histograms_count_every_score():
    images, texts = draw()
    histogram = measure(images, texts).details["histogram"]
    assert sum(histogram["positive"]) == 60
    assert sum(histogram["negative"]) == 60 * 59
    assert len(histogram["edges"]) == len(histogram["positive"]) + 1 == 65


def test_chunks_do_not_matter(monkeypatch):
    images, texts = draw()
    whole = values_of(measure(images, texts))
    monkeypatch.setattr("vlp.evaluators.score_tiles.CHUNK", 7)
    assert values_of(measure(images, texts)) == pytest.approx(whole, abs=1e-12)


def test_large_sets_are_thinned_evenly(tmp_path):
    evaluator = Geometry(opened(write_captions(tmp_path / "set")), max_pairs=4)
    assert evaluator.chosen.tolist() == [0, 13, 26, 39]
    assert evaluator.run(SharedEncoder(HashEncoder())).details["pairs"] == 4


def test_influences_are_derivatives_by_weights():
    images, texts = (rows.double() for rows in draw(13, 4))
    images[3], texts[3] = images[5], texts[5]  # and ties
    positives = (images * texts).sum(1)
    x, y = images.numpy(), texts.numpy()
    own = positives.numpy()
    scores = (images @ texts.T).numpy()
    others = 1 - np.eye(13)

    def kernel(a, b):
        return np.exp(-4 * (1 - a @ b.T))

    def mean_of(matrix):
        return lambda w: (matrix * others * np.outer(w, w)).sum() / (others * np.outer(w, w)).sum()

    def auc(w):
        pairs = others * np.outer(w, w)
        wins = sum(w[i] * (pairs * ((scores < own[i]) + (scores == own[i]) / 2)).sum() for i in range(13))
        return wins / w.sum() / pairs.sum()

    negatives = count_negatives(images, texts, positives)
    kernels = [log_kernel(images, images), log_kernel(texts, texts), log_kernel(images, texts)]
    discrepancy = (mean_of(kernel(x, x)), mean_of(kernel(y, y)), mean_of(kernel(x, y)))
    for found, number in (
        (kernels[0], lambda w: np.log(discrepancy[0](w))),
        (kernels[2], lambda w: np.log(discrepancy[2](w))),
        (gap_mmd(*kernels), lambda w: discrepancy[0](w) + discrepancy[1](w) - 2 * discrepancy[2](w)),
        (negatives.mean, mean_of(scores)),
        (negatives.auc, auc),
    ):
        assert found.influences.numpy() == pytest.approx(slopes(number, 13), abs=1e-8)


def estimates_of(images, texts):
    images, texts = images.double(), texts.double()
    kernels = [log_kernel(images, images), log_kernel(texts, texts), log_kernel(images, texts)]
    negatives = count_negatives(images, texts, (images * texts).sum(1))
    found = {"gap": moments.centroid_distance(images, texts), "cosine": moments.mean_cosine(images)}
    found |= {"across": moments.mean_cosine_across(images, texts), "auc": negatives.auc, "negatives": negatives.mean}
    found |= {"mmd": gap_mmd(*kernels), "uniformity": kernels[0], "cross uniformity": kernels[2]}
    return {name: estimate.as_metric(name) for name, estimate in found.items()}


def test_intervals_hold_the_truth():
    """Of 1,500 pairs, 80 drawn at random are a sample."""
    images, texts = draw(1500)
    truth = estimates_of(images, texts)
    generator = torch.Generator().manual_seed(0)
    held = dict.fromkeys(truth, 0)
    for _ in range(100):
        chosen = torch.randperm(1500, generator=generator)[:80]
        for name, metric in estimates_of(images[chosen], texts[chosen]).items():
            held[name] += metric.low <= truth[name].value <= metric.high
    assert min(held.values()) >= 88, held


def test_all_but_the_overlap_have_an_interval():
    for metric in measure(*draw()).metrics:
        assert (metric.low is None) == (metric.name == "overlap"), metric
        assert metric.low is None or metric.low <= metric.value <= metric.high, metric


def test_opposite_rows_have_a_centroid_without_direction():
    rows = torch.cat([torch.eye(3), -torch.eye(3)])
    found = {metric.name: metric for metric in measure(rows, rows).metrics}["centroid_cosine"]
    assert (found.low, found.value, found.high) == (-1, 0, 1) or found.low == found.high == 0


def test_one_pair_has_no_other_to_be_compared_with(tmp_path):
    with pytest.raises(RecipeError, match="geometry compares two pairs or more"):
        Geometry(opened(write_captions(tmp_path / "one", [["a dog"]])))
    with pytest.raises(RecipeError, match=r"settings\.max_pairs is 1, and there are 40 images"):
        Geometry(opened(write_captions(tmp_path / "many")), max_pairs=1)
