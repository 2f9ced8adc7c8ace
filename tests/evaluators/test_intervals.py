"""Intervals against published numbers and by coverage."""

from __future__ import annotations

import numpy as np
import pytest

from vlp.evaluators.intervals import linearised, mean, mean_of_means, mean_of_proportions, median, proportion, quantile


def test_wilson_gives_the_published_interval():
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    metric = proportion("x", 81, 263)
    assert (metric.low, metric.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0.0, 0.2775), (10, 0.7225, 1.0)])
def test_wilson_stays_inside_zero_and_one(hits, low, high):
    metric = proportion("x", hits, 10)
    assert (metric.low, metric.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_mean_of_proportions_leaves_out_empty_groups():
    metric = mean_of_proportions("x", np.array([1, 0, 3]), np.array([2, 0, 3]))
    assert metric.value == 0.75
    assert metric.low < 0.75 < metric.high
    assert metric.count == 5


def test_weighted_mean():
    metric = mean("x", np.array([1.0, 4.0]), np.array([3.0, 1.0]))
    assert metric.value == 1.75
    assert (metric.low, metric.high) == (1.0, 4.0)


def test_intervals_are_the_same_every_time():
    values = np.random.default_rng(0).normal(size=50)
    assert mean("x", values) == mean("x", values)


def test_the_mean_interval_has_the_width_of_its_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    metric = mean("x", values)
    assert metric.high - metric.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


@pytest.mark.parametrize("size", [8, 40, 200])
def test_the_median_interval_covers(size):
    random = np.random.default_rng(0)
    metrics = [median("x", random.normal(size=size)) for _ in range(1000)]
    covered = np.mean([metric.low <= 0 <= metric.high for metric in metrics])
    assert 0.93 < covered <= 1.0


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_the_quantile_interval_covers(share):
    random = np.random.default_rng(0)
    metrics = [quantile("x", random.random(300), share) for _ in range(1000)]
    assert 0.93 < np.mean([metric.low <= share <= metric.high for metric in metrics]) < 0.99
    assert metrics[0].low < metrics[0].value < metrics[0].high


def test_few_values_have_a_quantile_without_interval():
    metric = quantile("x", np.arange(20), 0.05)
    assert (metric.value, metric.low, metric.high) == (pytest.approx(0.95), None, None)
    for share in (0.05, 0.95):
        assert quantile("x", np.arange(72), share).low is None
        assert quantile("x", np.arange(73), share).low is not None


def test_a_quantile_from_above_is_one_from_below():
    values = np.random.default_rng(0).random(300)
    metric, mirrored = quantile("x", values, 0.05), quantile("x", -values, 0.95)
    assert (metric.low, metric.high) == (-mirrored.high, -mirrored.low)


def test_few_values_have_a_median_without_interval():
    metric = median("x", np.array([1, 2, 3, 4]))
    assert (metric.value, metric.low, metric.high) == (2.5, None, None)


def test_an_interval_by_influences_is_that_of_the_normal_mean():
    values = np.random.default_rng(0).random(400)
    metric = linearised("x", values.mean(), (values - values.mean()) / 400)
    spread = 1.959964 * values.std() / 20
    assert (metric.low, metric.high) == (pytest.approx(values.mean() - spread), pytest.approx(values.mean() + spread))
    assert metric.count == 400


def test_an_interval_by_influences_stays_inside_zero_and_one():
    metric = linearised("x", 0.99, np.full(4, 0.4))
    assert (metric.low, metric.high) == (0.0, 1.0)


def test_mean_of_means_is_as_wide_as_a_bootstrap_within_groups_says():
    random = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [50, 200, 80])
    values = random.random(330) * np.array([0.3, 1.0, 0.6])[groups]
    metric = mean_of_means("x", values, groups)
    parts = [values[groups == group] for group in range(3)]
    assert metric.value == pytest.approx(np.mean([part.mean() for part in parts]))
    draws = [np.mean([random.choice(part, len(part)).mean() for part in parts]) for _ in range(3000)]
    assert metric.high - metric.low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.05)
