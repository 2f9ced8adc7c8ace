"""Nearest neighbours in plain loops, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.evaluators.kinds import check_intervals, check_samples, draw_rows, values_of
from tests.evaluators.sets import HashEncoder, write_captions
from tests.evaluators.splits import FeatureHashEncoder, write_splits
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.knn import NearestNeighbours, predict
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError

MANY = [i % 3 for i in range(40)]
FEW = [i % 3 for i in range(20)]


def run(root, encoder=None, **settings):
    data = open_set(DataSource(root=str(root)))
    return NearestNeighbours(data, **settings).run(SharedEncoder(encoder or HashEncoder()))


def vote_by_hand(query, known, labels, num_classes, number, temperature):
    """Wu et al. 2018, section 3.4, one neighbour at a time."""
    cosines = [float(row @ query) for row in known]
    nearest = sorted(range(len(known)), key=lambda place: -cosines[place])[:number]
    votes = [0.0] * num_classes
    for place in nearest:
        votes[labels[place]] += math.exp(cosines[place] / temperature)
    return votes.index(max(votes))


@pytest.mark.parametrize("temperature", [0.02, 0.07, 10.0])
def test_votes_by_hand(temperature):
    known, queries = draw_rows(50, 8), draw_rows(30, 8, seed=1)
    labels = torch.arange(50) * 7 % 5
    numbers = (1, 3, 20, 50)
    found = predict(queries, known, labels, 5, numbers, temperature)
    for number, row in zip(numbers, found.tolist(), strict=True):
        expected = [vote_by_hand(query, known, labels.tolist(), 5, number, temperature) for query in queries]
        assert row == expected


def test_nearer_neighbours_count_more():
    known = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.7, 0.7]]), dim=1)
    query, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0, 1, 1])
    assert predict(query, known, labels, 2, (3,), 0.07).item() == 0
    assert predict(query, known, labels, 2, (3,), 100.0).item() == 1


def test_a_very_low_temperature_is_the_nearest_neighbour():
    known, queries = draw_rows(50, 8), draw_rows(30, 8, seed=1)
    labels = torch.arange(50) % 5
    one, all_of_them = predict(queries, known, labels, 5, (1, 50), 1e-6)
    assert torch.equal(one, all_of_them)


def test_a_set_is_scored_for_each_k(tmp_path):
    found = run(write_splits(tmp_path / "set", train=MANY, test=FEW), k=(1, 5))
    names = ["acc1_k1", "mean_per_class_recall_k1", "acc1_k5", "mean_per_class_recall_k5"]
    assert list(values_of(found)) == names
    for k in (1, 5):
        hits = np.array(found.details["predictions"][f"k{k}"]) == np.array(FEW)
        assert values_of(found)[f"acc1_k{k}"] == hits.mean()
        recalls = [hits[np.array(FEW) == label].mean() for label in range(3)]
        assert values_of(found)[f"mean_per_class_recall_k{k}"] == pytest.approx(np.mean(recalls))
    check_samples(found, names)
    check_intervals(found)


def test_features_before_the_projection_are_brought_to_unit_norm(tmp_path):
    root = write_splits(tmp_path / "set", train=MANY, test=FEW)
    encoder = FeatureHashEncoder()
    found = run(root, encoder, k=(3,), features="backbone")
    shared = SharedEncoder(encoder)
    rows = [shared.image_features(open_set(DataSource(root=str(root), split=split))) for split in ("train", "test")]
    known, queries = (torch.nn.functional.normalize(part, dim=1) for part in rows)
    expected = [vote_by_hand(query, known, MANY, 3, 3, 0.07) for query in queries]
    assert found.details["predictions"]["k3"] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "settings.k: 200 neighbours, and 'train' has 40 images"),
        ({"k": ()}, "settings.k is"),
        ({"k": (3, 3)}, "settings.k is"),
        ({"k": (0,)}, "settings.k is"),
        ({"k": (3,), "temperature": 0.0}, "settings.temperature is 0.0"),
        ({"k": (3,), "train_split": "test"}, "settings.train_split"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        run(write_splits(tmp_path / "set", train=MANY, test=FEW), **settings)


def test_another_kind_of_set_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="needs classification"):
        run(write_captions(tmp_path / "set"))
