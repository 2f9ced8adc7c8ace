"""Clusters against scikit-learn's scores, their derivatives, and what a gap between modalities does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, v_measure_score

from tests.evaluators.kinds import TableEncoder, check_intervals, check_samples, values_of
from tests.evaluators.sets import HashEncoder, opened, write_captions, write_classes
from tests.evaluators.splits import FeatureHashEncoder
from vlp.evaluators.clustering import Clustering
from vlp.evaluators.joint_clustering import JointClustering
from vlp.evaluators.probes.clusters import Cells, influences_of, score_clusters
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError

LABELS = [i % 3 for i in range(30)]


def draw(size=400, seed=0, clear=0.6):
    random = np.random.default_rng(seed)
    classes = random.integers(4, size=size)
    clusters = np.where(random.random(size) < clear, (classes + 1) % 4, random.integers(5, size=size))
    return clusters, classes


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed):
    clusters, classes = draw(seed=seed)
    found = score_clusters(clusters, classes)
    assert values_of(found)["nmi"] == pytest.approx(v_measure_score(classes, clusters), abs=1e-12)
    assert values_of(found)["ari"] == pytest.approx(adjusted_rand_score(classes, clusters), abs=1e-12)
    best = max(np.mean(np.array(named)[clusters] == classes) for named in itertools.permutations([0, 1, 2, 3, -1], r=5))
    assert values_of(found)["cluster_accuracy"] == pytest.approx(best)
    check_samples(found, ["nmi", "ari", "cluster_accuracy"])
    check_intervals(found)


@pytest.mark.parametrize(
    ("formula", "score"),
    [(Cells.mutual_information, normalized_mutual_info_score), (Cells.adjusted_rand, adjusted_rand_score)],
)
def test_influences_are_what_a_repeated_sample_changes(formula, score):
    clusters, classes = draw(size=4000)
    influences = influences_of(formula, clusters, classes)
    assert influences.sum() == pytest.approx(0, abs=1e-9)
    for place in (0, 11, 57):
        more = [np.append(each, [each[place]] * 4) for each in (clusters, classes)]
        change = score(more[1], more[0]) - score(classes, clusters)
        assert change / 4 == pytest.approx(influences[place], rel=0.1, abs=3e-6)


def test_the_interval_is_as_wide_as_a_bootstrap_says():
    clusters, classes = draw(size=1500)
    random = np.random.default_rng(1)
    draws = [random.integers(1500, size=1500) for _ in range(300)]
    for metric, score in zip(
        score_clusters(clusters, classes).metrics, (normalized_mutual_info_score, adjusted_rand_score), strict=False
    ):
        spread = np.std([score(classes[chosen], clusters[chosen]) for chosen in draws])
        assert metric.high - metric.low == pytest.approx(2 * 1.96 * spread, rel=0.2)


@pytest.mark.parametrize(
    ("clusters", "classes", "expected"),
    [([0, 0, 1, 1], [1, 1, 0, 0], 1.0), ([0, 0, 0, 0], [0, 1, 0, 1], 0.0), ([0, 1, 2, 3], [3, 2, 1, 0], 1.0)],
)
def test_the_ends_of_the_scale(clusters, classes, expected):
    found = score_clusters(np.array(clusters), np.array(classes))
    assert values_of(found)["nmi"] == pytest.approx(expected)
    assert values_of(found)["ari"] == pytest.approx(expected)
    check_intervals(found)


def test_worse_than_chance_has_an_interval_below_zero():
    found = score_clusters(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))
    assert values_of(found)["ari"] < 0
    check_intervals(found)


def test_images_are_clustered_as_scikit_learn_clusters_them(tmp_path):
    data = opened(write_classes(tmp_path / "set", labels=LABELS))
    encoder = FeatureHashEncoder()
    shared = SharedEncoder(encoder)
    for features, rows in (("projected", shared.images(data)), ("backbone", shared.image_features(data))):
        found = Clustering(data, features=features, starts=3).run(SharedEncoder(encoder))
        unit = torch.nn.functional.normalize(rows, dim=1).double().numpy()
        referee = KMeans(3, n_init=3, random_state=0).fit(unit)
        assert found.details["clusters"] == referee.labels_.tolist()
        assert found.details["squares_left"] == pytest.approx(referee.inertia_)
    assert len(set(Clustering(data, clusters=5).run(SharedEncoder(encoder)).details["clusters"])) == 5


def joint(tmp_path, gap):
    """Images and prompts of three classes on three axes, the prompts moved along a fourth."""
    data = opened(write_classes(tmp_path / "set", labels=LABELS))
    images = torch.eye(4)[torch.tensor(data.labels)] + 0.05 * torch.rand(30, 4)
    axes = dict(zip(data.class_names, torch.eye(4).tolist(), strict=False))
    texts = {
        f"{head}{name}{tail}": [*row[:3], gap]
        for name, row in axes.items()
        for head, tail in (("a photo of a ", "."), ("a ", ""))
    }
    evaluator = JointClustering(data)
    assert set(evaluator.texts) == set(texts)
    return evaluator.run(SharedEncoder(TableEncoder(data, images, texts)))


def test_without_a_gap_prompts_lie_with_their_images(tmp_path):
    found = joint(tmp_path, gap=0.0)
    assert values_of(found)["joint_nmi"] == values_of(found)["joint_ari"] == pytest.approx(1)
    assert values_of(found)["joint_modality_nmi"] == pytest.approx(0, abs=1e-9)
    assert found.details["texts"] == 6
    check_samples(found)
    check_intervals(found)


def test_a_gap_splits_the_clusters(tmp_path):
    found = joint(tmp_path, gap=20.0)
    assert values_of(found)["joint_nmi"] < 0.95
    assert values_of(found)["joint_modality_nmi"] > 0.1


@pytest.mark.parametrize("evaluator", [Clustering, JointClustering])
def test_settings_that_cannot_be_are_refused(tmp_path, evaluator):
    data = opened(write_classes(tmp_path / "set", labels=LABELS))
    with pytest.raises(RecipeError, match=r"settings.clusters: 1 clusters of"):
        evaluator(data, clusters=1)
    with pytest.raises(RecipeError, match=r"settings.clusters: 1000 clusters of"):
        evaluator(data, clusters=1000)
    with pytest.raises(RecipeError, match=r"settings.starts is 0"):
        evaluator(data, starts=0)
    with pytest.raises(RecipeError, match="needs classification"):
        evaluator(opened(write_captions(tmp_path / "captions")))
    assert Clustering(data).run(SharedEncoder(HashEncoder())) == Clustering(data).run(SharedEncoder(HashEncoder()))
