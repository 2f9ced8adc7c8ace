"""The linear probe: what scikit-learn finds on the same features, CLIP's search, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.evaluators.kinds import check_samples, values_of
from tests.evaluators.sets import HashEncoder, write_captions
from tests.evaluators.splits import FeatureHashEncoder, write_splits
from tests.evaluators.test_logistic import draw
from vlp.evaluators.base import Task
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.linear_probe import LinearProbe
from vlp.evaluators.probes.logistic import LabelledRows, fit
from vlp.evaluators.probes.penalties import hold_out, penalty_at, search_penalty
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.tasks import run_tasks
from vlp.ground.types import RecipeError

MANY = [i % 3 for i in range(90)]
FEW = [i % 3 for i in range(45)]


def probe(root, encoder=None, **settings):
    data = open_set(DataSource(root=str(root)))
    return LinearProbe(data, **settings).run(SharedEncoder(encoder or HashEncoder()))


def rows_of(root, split):
    data = open_set(DataSource(root=str(root), split=split))
    return SharedEncoder(HashEncoder()).images(data).double().numpy(), np.array(data.labels)


def test_a_fixed_penalty_scores_as_scikit_learn_does(tmp_path):
    root = write_splits(tmp_path / "set", train=MANY, test=FEW)
    found = probe(root, l2=0.1)
    (train, truth), (test, labels) = rows_of(root, "train"), rows_of(root, "test")
    referee = LogisticRegression(C=10, tol=1e-12, max_iter=100_000).fit(train, truth)
    predictions = referee.predict(test)
    assert found.details["predictions"] == predictions.tolist()
    assert values_of(found)["acc1"] == np.mean(predictions == labels)
    recalls = [np.mean(predictions[labels == label] == label) for label in range(3)]
    assert values_of(found)["mean_per_class_recall"] == pytest.approx(np.mean(recalls))
    check_samples(found, ["acc1", "mean_per_class_recall"])
    assert values_of(found)["acc1"] > 0.5
    assert found.details["learned_from"][0]["samples"] == len(MANY)


def test_the_search_halves_the_interval_around_the_best_and_the_fit_has_all_samples(tmp_path):
    root = write_splits(tmp_path / "set", train=MANY, test=FEW)
    found = probe(root)
    tried = [each["l2"] for each in found.details["search"]["tried"]]
    assert tried == sorted(set(tried))
    assert tried[-1] == pytest.approx(1e6)
    assert len(tried) <= 7 + 8
    assert found.details["l2"] in tried
    neighbours = [l2 for l2 in tried if 0.5 < l2 / found.details["l2"] < 2]
    assert len(neighbours) >= (2 if found.details["search"]["at_the_edge"] else 3)  # eight steps per decade around it
    assert values_of(found) == values_of(probe(root, l2=found.details["l2"]))
    assert found.details["objective"] == pytest.approx(probe(root, l2=found.details["l2"]).details["objective"])


def test_the_first_pass_ends_behind_a_peak():
    """Where held-out labels are those that the fit gets wrong, weaker penalties score less."""
    rows = draw(size=120, width=12, num_classes=2, seed=3)
    tried = search_penalty(rows, LabelledRows(rows.features, 1 - rows.labels, 2)).tried
    accuracies = {each["l2"]: each["held_out_acc1"] for each in tried}
    coarse = [accuracies[l2] for l2 in (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6) if l2 in accuracies]
    assert 3 <= len(coarse) < 7
    assert max(coarse[-2:]) < max(coarse)


def test_the_chosen_penalty_is_the_best_of_those_tried_and_the_middle_of_equals():
    rows, held_out = draw(size=120, num_classes=3, seed=2), draw(size=90, num_classes=3, seed=2)
    search = search_penalty(rows, LabelledRows(held_out.features[60:], held_out.labels[60:], 3))
    best = max(each["held_out_acc1"] for each in search.tried)
    equals = [each["l2"] for each in search.tried if each["held_out_acc1"] == best]
    assert search.penalty == equals[len(equals) // 2]
    for each in search.tried:
        exact = fit(rows, each["l2"])
        accuracy = (exact.predict(held_out.features[60:]) == held_out.labels[60:]).double().mean()
        assert each["held_out_acc1"] == pytest.approx(float(accuracy), abs=1.5 / 30)


def test_the_grid_has_eight_steps_per_decade():
    assert [penalty_at(place) for place in (-48, 0, 48)] == pytest.approx([1e-6, 1, 1e6])
    assert penalty_at(8) / penalty_at(0) == pytest.approx(10)


def test_a_validation_split_chooses_and_is_learned_from_in_the_end(tmp_path):
    root = write_splits(tmp_path / "set", train=MANY, val=FEW, test=FEW)
    found = probe(root, validation_split="val")
    assert [part["split"] for part in found.details["learned_from"]] == ["train", "val"]
    both = [np.concatenate(parts) for parts in zip(rows_of(root, "train"), rows_of(root, "val"), strict=True)]
    referee = LogisticRegression(C=1 / found.details["l2"], tol=1e-12, max_iter=100_000).fit(*both)
    assert found.details["predictions"] == referee.predict(rows_of(root, "test")[0]).tolist()


def test_each_class_gives_its_share_and_keeps_at_least_one():
    labels = np.array([0] * 10 + [1] * 5 + [2])
    away = hold_out(labels, 0.2, seed=0)
    assert [int(away[labels == label].sum()) for label in range(3)] == [2, 1, 0]
    assert np.array_equal(away, hold_out(labels, 0.2, seed=0))
    assert not np.array_equal(away, hold_out(labels, 0.2, seed=1))


def test_features_before_the_projection(tmp_path):
    root = write_splits(tmp_path / "set", train=MANY, test=FEW)
    encoder = FeatureHashEncoder()
    found = probe(root, encoder, features="backbone", l2=0.1)
    assert found.details["width"] == 2 * encoder.width
    train = SharedEncoder(encoder).image_features(open_set(DataSource(root=str(root), split="train")))
    referee = LogisticRegression(C=10, tol=1e-12, max_iter=100_000).fit(train.double().numpy(), MANY)
    test = SharedEncoder(encoder).image_features(open_set(DataSource(root=str(root))))
    assert found.details["predictions"] == referee.predict(test.double().numpy()).tolist()
    with pytest.raises(RecipeError, match="features: a HashEncoder gives embeddings alone"):
        probe(root, HashEncoder(), features="backbone")


def test_splits_are_embedded_once_for_all_probes(tmp_path):
    root = write_splits(tmp_path / "set", train=MANY, test=FEW)
    mapping = {"version": 1, "evaluator": "linear_probe", "main_metric": "acc1", "data": {"root": str(root)}}
    tasks = [Task.from_mapping(f"l2-{l2}", mapping | {"settings": {"l2": l2}}, "a test") for l2 in (0.1, 1.0)]
    encoder = HashEncoder()
    records = run_tasks(tasks, encoder, model="m")
    assert [record.get("error") for record in records] == [None, None]
    assert encoder.num_images == len(MANY) + len(FEW)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_split": "test"}, "settings.train_split: 'test' is the split that is tested"),
        ({"train_split": "training"}, "training/nshards.txt: no such file"),
        ({"validation_split": "train"}, "settings.validation_split is the training split"),
        ({"l2": 0.0}, "settings.l2 is 0.0"),
        ({"held_out": 1.0}, "settings.held_out is 1.0"),
        ({"held_out": 0.01}, "hold out more, or set l2"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, message):
    root = write_splits(tmp_path / "set", train=MANY, test=FEW)
    with pytest.raises(RecipeError, match=message):
        probe(root, **settings)


def test_a_training_split_that_lacks_a_class_is_refused(tmp_path):
    root = write_splits(tmp_path / "set", train=[0, 1, 0, 1], test=FEW)
    with pytest.raises(RecipeError, match=r"1 of the classes .* have no sample"):
        probe(root)


def test_another_kind_of_set_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="needs classification"):
        probe(write_captions(tmp_path / "set"))


def test_the_test_split_decides_nothing(tmp_path):
    """Labels of the split that is tested may be anything: the classifier and its penalty stay."""
    root = write_splits(tmp_path / "set", train=MANY, test=FEW)
    other = write_splits(tmp_path / "other", train=MANY, test=FEW[1:] + FEW[:1])
    assert probe(root).details["search"] == probe(other).details["search"]
    assert torch.tensor(probe(root).details["objective"]) == probe(other).details["objective"]
