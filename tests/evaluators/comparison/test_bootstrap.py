"""Bootstraps against loops and theory, tests against scipy, corrections against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from vlp.evaluators.comparison import bootstrap
from vlp.evaluators.comparison.bootstrap import (
    NUM_RESAMPLES,
    difference,
    draw_from_interval,
    holm,
    is_binary,
    least_p,
    mcnemar,
    resample_means,
    seed_weights,
    widen,
)


def random(seed=0):
    return np.random.default_rng(seed)


def pair_of(size, kind, seed=1):
    """Two runs whose samples are correlated, [2, size]."""
    source = random(seed)
    hard = source.normal(size=size)
    scores = hard + np.array([[0.3], [0.5]]) + 0.5 * source.normal(size=(2, size))
    return (scores > 0).astype(float) if kind == "binary" else scores


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_resampling_gives_the_standard_errors_of_both_runs_and_of_their_difference(kind):
    values = pair_of(300, kind)
    draws = resample_means(values, None, random())
    assert draws.shape == (NUM_RESAMPLES, 2)
    for drawn, one in ((draws[:, 0], values[0]), (draws[:, 1], values[1]), (draws @ [-1, 1], values[1] - values[0])):
        assert drawn.mean() == pytest.approx(one.mean(), abs=4 * one.std() / math.sqrt(300 * NUM_RESAMPLES))
        assert drawn.std() == pytest.approx(one.std() / math.sqrt(300), rel=0.03)
    apart = math.hypot(values[0].std(), values[1].std()) / math.sqrt(300)
    assert (draws @ [-1, 1]).std() < 0.9 * apart, "the same samples are drawn for both"


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_the_interval_is_that_of_scipy(kind):
    values = pair_of(120, kind)
    ours = difference(0.1, resample_means(values, None, random()) @ [-1, 1])
    theirs = stats.bootstrap(
        tuple(values),
        lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis),
        paired=True,
        n_resamples=NUM_RESAMPLES,
        method="percentile",
        rng=random(7),
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    least = 0.04 * width + (1.01 / 120 if kind == "binary" else 0)  # one sample more or less
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=least)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=least)


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_groups_are_resampled_within_and_averaged_with_equal_weights(kind):
    """A loop: draw within each group, take its mean, take the mean of these."""
    values, groups = pair_of(90, kind), np.array([5] * 10 + [0] * 60 + [3] * 20)
    draws = resample_means(values, groups, random())
    source, slow = random(3), np.empty((2000, 2))
    for row in slow:
        means = []
        for group in (0, 3, 5):
            members = np.flatnonzero(groups == group)
            means.append(values[:, source.choice(members, size=len(members))].mean(axis=1))
        row[:] = np.mean(means, axis=0)
    assert draws.mean(axis=0) == pytest.approx(slow.mean(axis=0), abs=0.005)
    assert draws.std(axis=0) == pytest.approx(slow.std(axis=0), rel=0.06)
    assert np.cov(draws.T)[0, 1] == pytest.approx(np.cov(slow.T)[0, 1], rel=0.12)


def test_shuffled_samples_and_groups_change_nothing_but_the_draws():
    values, groups = pair_of(90, "continuous"), np.arange(90) % 4
    order = random(5).permutation(90)
    first, second = (
        resample_means(values, groups, random()),
        resample_means(values[:, order], groups[order], random()),
    )
    assert first.mean(axis=0) == pytest.approx(second.mean(axis=0), abs=0.01)


def test_drawing_patterns_and_drawing_samples_agree(monkeypatch):
    values = pair_of(200, "binary")
    by_pattern = resample_means(values, None, random())
    monkeypatch.setattr(bootstrap, "MOST_PATTERNS", 1)
    by_sample = resample_means(values, None, random())
    assert by_pattern.std(axis=0) == pytest.approx(by_sample.std(axis=0), rel=0.03)
    assert np.corrcoef(by_pattern.T)[0, 1] == pytest.approx(np.corrcoef(by_sample.T)[0, 1], abs=0.03)


def test_draws_are_the_same_every_time():
    values = pair_of(500, "continuous")
    assert (resample_means(values, None, random()) == resample_means(values, None, random())).all()


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_seeds_bring_the_variance_of_the_mean_of_a_sample(num_seeds):
    values = random(2).normal(size=num_seeds)
    weights = seed_weights(num_seeds, random())
    assert weights.sum(axis=1) == pytest.approx(1)
    assert (weights @ values).std() == pytest.approx(values.std(ddof=1) / math.sqrt(num_seeds), rel=0.03)


def test_one_seed_brings_none():
    assert (seed_weights(1, random()) == 1).all()


def test_few_seeds_widen_to_the_interval_of_welch():
    """Where only seeds vary, the interval is that of scipy's t test with unequal variances."""
    first, second = random(4).normal(size=4), random(5).normal(size=3) + 1
    value = second.mean() - first.mean()
    spread = math.sqrt(first.var(ddof=1) / 4 + second.var(ddof=1) / 3)
    draws = widen(value + spread * random(6).normal(size=NUM_RESAMPLES), value, [first, second], random(8))
    welch = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    assert np.percentile(draws, [2.5, 97.5]) == pytest.approx([welch.low, welch.high], abs=0.05 * spread * 4)


def test_no_variance_between_seeds_widens_nothing():
    draws = random().normal(size=NUM_RESAMPLES)
    assert widen(draws, 0.0, [], random()) is draws
    assert widen(draws, 0.0, [np.ones(3)], random()) is draws


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_intervals_over_few_seeds_cover(num_seeds, monkeypatch):
    """Equal models whose seeds vary twice as much as their samples do: 95 % of the intervals should hold zero."""
    monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 1000)
    source, covered = random(9), 0
    for _study in range(200):
        hard = source.normal(size=60)
        runs = hard + source.normal(size=(2 * num_seeds, 1)) / 8 + source.normal(size=(2 * num_seeds, 60)) / 2
        draws = np.split(resample_means(runs, None, source), 2, axis=1)
        first, second = ((each * seed_weights(num_seeds, source)).sum(axis=1) for each in draws)
        values = np.split(runs.mean(axis=1), 2)
        value = values[1].mean() - values[0].mean()
        found = difference(value, widen(second - first, value, values, source))
        covered += found.low <= 0 <= found.high
    assert covered >= 0.9 * 200


def test_an_interval_that_is_not_symmetric_is_drawn_as_it_is():
    draws = draw_from_interval(0.9, 0.7, 0.95, random())
    assert np.percentile(draws, [2.5, 50, 97.5]) == pytest.approx([0.7, 0.9, 0.95], abs=0.01)


def test_the_probability_is_that_of_the_higher_one_and_equal_draws_count_half():
    draws = np.array([0.0] * 20 + [0.1] * 70 + [-0.1] * 10)
    assert difference(0.06, draws).probability == pytest.approx(0.8)
    assert difference(-0.06, -draws).probability == pytest.approx(0.8)
    assert difference(0.0, draws).probability == 0.5


@pytest.mark.parametrize(("kind", "size"), [("binary", 1000), ("continuous", 100), ("continuous", 1000)])
def test_p_is_close_to_that_of_a_paired_t_test(kind, size):
    values = pair_of(size, kind)
    found = difference(values[1].mean() - values[0].mean(), resample_means(values, None, random()) @ [-1, 1])
    assert found.p == pytest.approx(stats.ttest_rel(*values).pvalue, abs=0.02)


def test_all_ties_are_not_distinguishable():
    found = difference(0.0, np.zeros(NUM_RESAMPLES))
    assert (found.low, found.high, found.probability, found.p) == (0.0, 0.0, 0.5, 1.0)


def test_one_sample_has_no_interval_and_is_not_believed():
    draws = resample_means(np.array([[0.2], [0.7]]), None, random()) @ [-1, 1]
    found = difference(0.5, draws, least_p=least_p(1))
    assert (found.low, found.high, found.p) == (None, None, 1.0)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 12])
def test_the_least_p_is_that_of_a_sign_test(count):
    expected = stats.binomtest(count, count).pvalue if count else 1.0
    assert least_p(count) == pytest.approx(expected)


def test_the_least_p_of_samples_that_are_not_known_is_no_limit():
    assert least_p(math.inf) == least_p(100_000) == 0.0


def test_mcnemar_by_hand():
    """Nine samples that only one gets right, one of them the first: 2 * (1 + 9) / 2^9."""
    first, second = np.zeros(30), np.zeros(30)
    first[:6] = second[:5] = 1
    second[10:18] = 1
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 9) / 2**9)


def test_mcnemar_without_a_difference_is_one():
    assert mcnemar(np.ones(5), np.ones(5)) == 1.0


@pytest.mark.parametrize(("values", "expected"), [([0, 1, 1], True), ([0.5, 1], False), ([1], True), ([2, 0], False)])
def test_only_zeros_and_ones_are_binary(values, expected):
    assert is_binary(np.array(values, dtype=float)) == expected


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_its_definition_rejects():
    """Step down: the k-th smallest is held against level / (n - k + 1), and after the first failure all fail."""
    source = random(11)
    for _ in range(200):
        p_values = list(source.random(6) ** 3)
        rejected = set()
        for rank, place in enumerate(sorted(range(6), key=p_values.__getitem__)):
            if p_values[place] > 0.05 / (6 - rank):
                break
            rejected.add(place)
        assert {place for place, p in enumerate(holm(p_values)) if p <= 0.05} == rejected
