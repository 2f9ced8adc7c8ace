"""Few-shot learning: what is drawn, what is learned from it, and intervals over draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from tests.evaluators.kinds import check_intervals, check_samples, draw_rows, values_of
from tests.evaluators.sets import HashEncoder
from tests.evaluators.splits import write_splits
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.few_shot import FewShot, nearest_mean
from vlp.evaluators.probes.few import draw_few, mean_over_draws
from vlp.evaluators.probes.logistic import LabelledRows
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError

MANY = [i % 3 for i in range(36)]
FEW = [i % 3 for i in range(24)]


def run(root, **settings):
    data = open_set(DataSource(root=str(root)))
    return FewShot(data, **settings).run(SharedEncoder(HashEncoder()))


def rows_of(root, split):
    data = open_set(DataSource(root=str(root), split=split))
    return SharedEncoder(HashEncoder()).images(data).double().numpy(), np.array(data.labels)


def test_each_class_gives_as_many_and_more_shots_contain_fewer():
    labels = np.array(MANY)
    few, more = draw_few(labels, 2, seed=0, draw=1), draw_few(labels, 5, seed=0, draw=1)
    assert few.shape == (3, 2)
    assert np.array_equal(labels[more], np.repeat([[0], [1], [2]], 5, axis=1))
    assert np.array_equal(more[:, :2], few)
    assert len(set(more.reshape(-1).tolist())) == 15
    assert not np.array_equal(draw_few(labels, 2, seed=0, draw=2), few)
    assert not np.array_equal(draw_few(labels, 2, seed=1, draw=1), few)


def test_nearest_mean_is_scikit_learns_nearest_centroid_on_the_sphere():
    rows, queries, labels = draw_rows(30, 8), draw_rows(40, 8, seed=1), torch.arange(30) % 3
    found = nearest_mean(LabelledRows(rows, labels, 3), queries)
    centroids = NearestCentroid().fit(rows.numpy(), labels.numpy()).centroids_
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    assert found.tolist() == (queries.numpy() @ centroids.T).argmax(1).tolist()


def test_a_draw_is_scored_as_scikit_learn_scores_it(tmp_path):
    root = write_splits(tmp_path / "set", train=MANY, test=FEW)
    found = run(root, shots=(1, 4), draws=3, l2=0.01)
    (train, truth), (test, labels) = rows_of(root, "train"), rows_of(root, "test")
    for number in (1, 4):
        for draw in range(3):
            chosen = draw_few(truth, number, 0, draw).reshape(-1)
            referee = LogisticRegression(C=100, tol=1e-12, max_iter=100_000).fit(train[chosen], truth[chosen])
            accuracy = np.mean(referee.predict(test) == labels)
            assert found.details["draws"][f"linear_acc1_{number}shot"][draw] == accuracy
    for name, value in values_of(found).items():
        assert value == pytest.approx(np.mean(found.details["draws"][name]))
    names = [f"{head}_acc1_{number}shot" for number in (1, 4) for head in ("linear", "nearest_mean")]
    assert list(values_of(found)) == names
    check_samples(found, names)
    check_intervals(found)


def test_the_penalty_is_searched_on_images_that_are_not_learned_from(tmp_path):
    root = write_splits(tmp_path / "set", train=MANY, test=FEW)
    found = run(root, shots=(2,), draws=2)
    (train, truth), (test, labels) = rows_of(root, "train"), rows_of(root, "test")
    for draw, l2 in enumerate(found.details["draws"]["l2_2shot"]):
        chosen = draw_few(truth, 4, 0, draw)[:, :2].reshape(-1)
        referee = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=100_000).fit(train[chosen], truth[chosen])
        accuracy = np.mean(referee.predict(test) == labels)
        assert found.details["draws"]["linear_acc1_2shot"][draw] == pytest.approx(accuracy, abs=1.01 / len(FEW))


def test_more_shots_are_better(tmp_path):
    found = values_of(run(write_splits(tmp_path / "set", train=MANY, test=FEW), shots=(1, 8), draws=4, l2=0.01))
    assert found["nearest_mean_acc1_8shot"] > found["nearest_mean_acc1_1shot"]


@pytest.mark.parametrize("missing", [0, 2])
def test_a_class_without_a_sample_to_learn_from_is_refused(tmp_path, missing):
    root = write_splits(tmp_path / "set", train=[label for label in MANY if label != missing], test=FEW)
    data = open_set(DataSource(root=str(root), classes_without_samples=None))
    with pytest.raises(RecipeError, match=rf"1 classes have no sample in 'train' .*{data.class_names[missing]}"):
        FewShot(data, shots=(1,), draws=2).run(SharedEncoder(HashEncoder()))


def test_another_seed_draws_others(tmp_path):
    root = write_splits(tmp_path / "set", train=MANY, test=FEW)
    one, same, other = (run(root, shots=(1,), draws=3, l2=0.1, seed=seed).details["draws"] for seed in (0, 0, 1))
    assert one == same != other


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Each draw and each sample has an effect of its own on the chance of a hit."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        chance = 0.6 + 0.08 * random.standard_normal((4, 1)) + 0.15 * random.standard_normal((1, 60))
        metric, _ = mean_over_draws("acc1", random.random((4, 60)) < chance)
        held += metric.low <= 0.6 <= metric.high
    assert 0.93 <= held / 400 <= 1.0


def test_equal_draws_have_the_width_of_their_samples_alone():
    hits = np.tile(np.arange(100) % 2 == 0, (5, 1))
    metric, samples = mean_over_draws("acc1", hits)
    assert metric.high - metric.low == pytest.approx(2 * 1.984 * np.sqrt(0.25 / 99), rel=1e-3)
    assert samples.values == hits[0].tolist()
    always, _ = mean_over_draws("acc1", np.ones((3, 7), dtype=bool))
    assert (always.value, always.low, always.high) == (1, 1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": (16,)}, "settings.shots: 20 samples of each class .* and class 0 has 12"),
        ({"shots": ()}, "settings.shots is"),
        ({"shots": (0,)}, "settings.shots is"),
        ({"shots": (2, 2)}, "settings.shots is"),
        ({"draws": 1}, "settings.draws is 1"),
        ({"l2": -1.0}, "settings.l2 is -1.0"),
        ({"train_split": "test"}, "settings.train_split"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        run(write_splits(tmp_path / "set", train=MANY, test=FEW), **settings)
