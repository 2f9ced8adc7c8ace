"""Logistic regression against scikit-learn's, and what stops it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from vlp.evaluators.probes.logistic import LabelledRows, LinearClassifier, fit


def draw(size=300, width=12, num_classes=4, seed=0, distance=0.4):
    """Rows of unit norm around a mean of their own, as embeddings lie, in classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (size,), generator=generator)
    centres = distance * torch.randn(num_classes, width, generator=generator)
    rows = centres[labels] + torch.randn(size, width, generator=generator) + torch.randn(width, generator=generator)
    return LabelledRows(torch.nn.functional.normalize(rows, dim=1), labels, num_classes)


def objective(rows, weights, intercepts, penalty):
    """Cross-entropies one sample at a time, and the penalty."""
    total = penalty / 2 * float((weights**2).sum())
    for row, label in zip(rows.features.double().numpy(), rows.labels.tolist(), strict=True):
        logits = row @ weights + intercepts
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
    return total


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0, 100.0, 1e6])
def test_the_optimum_is_that_of_scikit_learn(penalty):
    rows = draw()
    found = fit(rows, penalty)
    features, labels = rows.features.double().numpy(), rows.labels.numpy()
    referee = LogisticRegression(C=1 / penalty, tol=1e-12, max_iter=100_000).fit(features, labels)
    theirs = objective(rows, referee.coef_.T, referee.intercept_, penalty)
    ours = objective(rows, found.weights.numpy(), found.intercepts.numpy(), penalty)
    assert found.objective == pytest.approx(ours, rel=1e-12)
    assert ours <= theirs * (1 + 1e-8)
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert np.array_equal(found.predict(rows.features).numpy(), referee.predict(features))
    other = draw(size=500, seed=1)
    assert np.mean(found.predict(other.features).numpy() == referee.predict(other.features.double().numpy())) == 1
    assert np.allclose(found.weights.numpy(), referee.coef_.T, rtol=1e-3, atol=1e-3 / np.sqrt(penalty))


def test_two_classes_are_scikit_learns_with_twice_the_c():
    rows = draw(num_classes=2)
    found = fit(rows, 0.5)
    features = rows.features.double().numpy()
    referee = LogisticRegression(C=2 / 0.5, tol=1e-12, max_iter=100_000).fit(features, rows.labels.numpy())
    difference = (found.weights[:, 1] - found.weights[:, 0]).numpy()
    assert np.allclose(difference, referee.coef_[0], atol=1e-4)
    assert np.array_equal(found.predict(rows.features).numpy(), referee.predict(features))


@pytest.mark.parametrize("size", [5, 20])
def test_fewer_samples_than_dimensions_and_separable_classes_have_an_optimum(size):
    rows = draw(size=size, width=64, num_classes=3)
    found = fit(rows, 1e-6)
    assert found.gap <= 1e-10
    assert torch.equal(found.predict(rows.features), rows.labels)


def test_the_gradient_at_the_end_is_zero():
    rows = draw()
    found = fit(rows, 0.1)
    weights = found.weights.clone().requires_grad_()
    intercepts = found.intercepts.clone().requires_grad_()
    logits = rows.features.double() @ weights + intercepts
    loss = torch.nn.functional.cross_entropy(logits, rows.labels, reduction="sum") + 0.05 * weights.square().sum()
    slopes = torch.autograd.grad(loss, (weights, intercepts))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-3
    assert loss.item() == pytest.approx(found.objective, rel=1e-12)


def test_another_start_leads_to_the_same_optimum():
    rows = draw()
    cold = fit(rows, 0.01)
    warm = fit(rows, 0.01, start=fit(rows, 10.0))
    assert warm.objective == pytest.approx(cold.objective, rel=1e-8)
    assert torch.allclose(warm.weights, cold.weights, atol=1e-3)
    assert fit(rows, 0.01, start=cold).evaluations <= 2


def test_float32_products_come_close():
    rows = draw()
    rough = fit(rows, 0.1, dtype=torch.float32, gap=1e-6)
    assert rough.objective == pytest.approx(fit(rows, 0.1).objective, rel=1e-4)


def test_rows_whose_product_is_the_logits():
    rows = draw()
    found = fit(rows, 1.0)
    features, classes = found.rows(rows.features)
    assert torch.equal((features @ classes.T).argmax(1), found.predict(rows.features))


def test_a_shift_of_all_features_moves_nothing_but_intercepts():
    rows = draw()
    moved = LabelledRows(rows.features + 3, rows.labels, rows.num_classes)
    one, other = fit(rows, 0.1), fit(moved, 0.1)
    assert torch.allclose(one.weights, other.weights, atol=1e-3)
    assert isinstance(other, LinearClassifier)
