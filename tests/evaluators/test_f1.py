"""Macro F1 against scikit-learn as WILDS calls it, and its interval against a bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from vlp.evaluators.f1 import macro_f1


def draw(size=400, num_classes=6, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(num_classes, size=size)
    predictions = np.where(random.random(size) < 0.6, labels, random.integers(num_classes, size=size))
    return predictions, labels


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_over_the_classes_that_are_there(seed):
    predictions, labels = draw(seed=seed)
    labels = np.where(labels == 2, 3, labels)  # predicted, and never right
    metric, samples = macro_f1(predictions, labels, 8)
    expected = f1_score(labels, predictions, average="macro", labels=np.unique(labels))
    assert metric.value == pytest.approx(expected, abs=1e-12)
    assert np.mean(samples.values) == pytest.approx(expected, abs=1e-12)


def test_a_class_that_is_never_predicted_counts_as_zero():
    metric, _ = macro_f1(np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1]), 2)
    assert metric.value == pytest.approx((2 * 2 / (2 + 4) + 0) / 2)


def test_a_perfect_model_is_perfect():
    metric, samples = macro_f1(np.arange(9) % 3, np.arange(9) % 3, 3)
    assert (metric.value, metric.low, metric.high) == (1, 1, 1)
    assert set(np.round(samples.values, 12)) == {1.0}


def test_the_interval_is_as_wide_as_a_bootstrap_says():
    predictions, labels = draw(size=1500)
    metric, _ = macro_f1(predictions, labels, 6)
    random = np.random.default_rng(1)
    draws = []
    for _ in range(300):
        chosen = random.integers(len(labels), size=len(labels))
        draws.append(f1_score(labels[chosen], predictions[chosen], average="macro"))
    assert metric.high - metric.low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.15)


def test_influences_are_the_derivative_by_the_weight_of_a_sample():
    predictions, labels = draw(size=60)
    metric, samples = macro_f1(predictions, labels, 6)
    for place in (0, 7, 31):
        weights = np.ones(60)
        weights[place] += 1e-6
        moved = f1_score(labels, predictions, average="macro", sample_weight=weights)
        slope = (samples.values[place] - metric.value) / 60
        assert (moved - metric.value) / 1e-6 == pytest.approx(slope, abs=1e-6)
