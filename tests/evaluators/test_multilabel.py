"""Average precision against scikit-learn and CLIP_benchmark's reading, with ties, and its interval by reweighting."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from tests.evaluators.kinds import check_intervals, check_samples, draw_rows, values_of, vector, write_set
from tests.evaluators.sets import HashEncoder, opened, write_captions
from vlp.evaluators.multilabel import Multilabel, average_precision, rank_images
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError


def draw(num_images=150, num_classes=6, seed=0):
    images, classes = draw_rows(num_images, 16, seed=seed), draw_rows(num_classes, 16, seed=seed + 100)
    noise = torch.randn(num_images, num_classes, generator=torch.Generator().manual_seed(seed))
    return images, classes, images @ classes.T + 0.2 * noise > 0.15


def names(number):
    return tuple(f"class {k}" for k in range(number))


def walk(scores, shown):
    """Go down the list and average the precision at each image of the class (CLIP_benchmark's definition)."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    found, precisions = 0, []
    for rank, i in enumerate(order, 1):
        if shown[i]:
            found += 1
            precisions.append(found / rank)
    return sum(precisions) / max(found, 1)


def test_three_images_counted_by_hand():
    images = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    evaluation = rank_images(images, torch.eye(2), torch.tensor([[1, 0], [0, 1], [1, 1]]).bool(), names(2))
    # first class: right, wrong, right; second: right, right, wrong
    assert evaluation.details["average_precision"] == pytest.approx([(1 + 2 / 3) / 2, 1])
    assert values_of(evaluation)["map"] == pytest.approx((5 / 6 + 1) / 2)
    assert evaluation.details["samples_per_class"] == [2, 2]
    assert evaluation.details["ties"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_equals_scikit_learn_and_a_walk_down_the_list(seed):
    images, classes, truth = draw(seed=seed)
    evaluation = rank_images(images, classes, truth, names(6))
    scores = (classes @ images.T).T.numpy()
    expected = [average_precision_score(truth[:, k].numpy(), scores[:, k]) for k in range(6)]
    assert evaluation.details["average_precision"] == pytest.approx(expected, abs=1e-12)
    by_hand = [walk(scores[:, k].tolist(), truth[:, k].tolist()) for k in range(6)]
    assert evaluation.details["average_precision_sorted"] == pytest.approx(by_hand, abs=1e-12)
    found = values_of(evaluation)
    assert found["map"] == pytest.approx(np.mean(expected)) == found["map_sorted"]
    check_samples(evaluation, ["map", "map_sorted"])
    check_intervals(evaluation)


@pytest.mark.parametrize("seed", range(4))
def test_equal_scores_count_together_or_in_the_order_of_the_set(seed):
    images, classes, truth = draw(seed=seed)
    scores = (3 * classes @ images.T).round()
    found = average_precision(scores, truth.T)
    for k in range(6):
        row, shown = scores[k].numpy(), truth[:, k].numpy()
        assert found.grouped[k].item() == pytest.approx(average_precision_score(shown, row), abs=1e-12)
        assert found.ordered[k].item() == pytest.approx(walk(row.tolist(), shown.tolist()), abs=1e-12)
    ties = sum(
        any(scores[k, j] == scores[k, i] and not truth[j, k] for j in range(150))
        for k in range(6)
        for i in range(150)
        if truth[i, k]
    )
    assert found.ties == ties > 0


def test_a_collapsed_model_gets_the_share_of_each_class():
    truth = torch.zeros(40, 2, dtype=torch.bool)
    truth[:10, 0] = truth[30:, 1] = True
    evaluation = rank_images(torch.eye(1, 4).repeat(40, 1), torch.eye(1, 4).repeat(2, 1), truth, names(2))
    assert values_of(evaluation)["map"] == 0.25
    assert evaluation.details["average_precision_sorted"][0] == 1  # its images happen to stand first
    assert evaluation.details["ties"] == 20


def test_a_class_without_images_counts_as_nothing():
    images, classes, truth = draw()
    truth[:, 2] = False
    evaluation = rank_images(images, classes, truth, names(6))
    assert evaluation.details["average_precision"][2] == 0
    assert values_of(evaluation)["map"] == pytest.approx(sum(evaluation.details["average_precision"]) / 6)


@pytest.mark.parametrize("coarse", [False, True])
def test_influences_are_the_derivative_by_the_weight_of_an_image(coarse):
    images, classes, truth = draw(num_images=50, num_classes=3)
    scores = classes @ images.T
    scores = (4 * scores).round() if coarse else scores
    found = average_precision(scores, truth.T)
    for place in (0, 11, 42):
        weights = np.ones(50)
        weights[place] += 1e-6
        moved = sum(
            average_precision_score(truth[:, k].numpy(), scores[k].numpy(), sample_weight=weights) for k in range(3)
        )
        assert (moved - float(found.grouped.sum())) / 1e-6 == pytest.approx(float(found.influences[place]), abs=1e-5)
    assert float(found.influences.sum()) == pytest.approx(0, abs=1e-12)


def test_the_interval_is_as_wide_as_a_bootstrap_says():
    images, classes, truth = draw(num_images=600, num_classes=3)
    metric = rank_images(images, classes, truth, names(3)).metrics[0]
    scores = (classes @ images.T).numpy()
    random = np.random.default_rng(0)
    draws = []
    for _ in range(200):
        chosen = random.integers(600, size=600)
        draws.append(np.mean([average_precision_score(truth[chosen, k], scores[k, chosen]) for k in range(3)]))
    assert metric.high - metric.low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.2)


def test_chunks_do_not_matter(monkeypatch):
    images, classes, truth = draw()
    images, classes = (images * 64).round() / 64, (classes * 64).round() / 64  # exact sums: the same bits in any GEMM
    whole = rank_images(images, classes, truth, names(6))
    monkeypatch.setattr("vlp.evaluators.multilabel.SCORES_AT_ONCE", 1)
    one_by_one = rank_images(images, classes, truth, names(6))
    assert one_by_one.details == whole.details
    assert values_of(one_by_one) == pytest.approx(values_of(whole))


def test_a_perfect_model_is_perfect():
    truth = torch.eye(4).repeat(5, 1).bool()
    assert set(values_of(rank_images(truth.float(), torch.eye(4), truth, names(4))).values()) == {1.0}


def test_runs_on_a_set(tmp_path):
    labels = [(1, 0, 1), (0, 1, 0), (1, 1, 0), (0, 0, 1), (0, 1, 1)]
    samples = {f"s{i}": {"npy": vector(*row)} for i, row in enumerate(labels)}
    root = write_set(tmp_path / "set", "multilabel", samples, ["cat", "dog", "owl"], ["a {c}", "the {c}"])
    data = opened(root)
    evaluator = Multilabel(data)
    assert evaluator.texts == ("a cat", "the cat", "a dog", "the dog", "a owl", "the owl")
    encoder = HashEncoder()
    evaluation = evaluator.run(SharedEncoder(encoder))
    images = encoder.embed_images(data.image(i) for i in range(5))
    by_hand = []
    for k, name in enumerate(data.class_names):
        row = encoder.embed_texts([f"a {name}"])[0] + encoder.embed_texts([f"the {name}"])[0]
        by_hand.append(average_precision_score([label[k] for label in labels], (images @ row).numpy()))
    assert values_of(evaluation)["map"] == pytest.approx(np.mean(by_hand))


@pytest.mark.parametrize("odd", [0.7, 256, -1, float("nan"), "yes"])
def test_labels_that_are_neither_zero_nor_one_are_an_error(tmp_path, odd):
    file = io.BytesIO()
    np.save(file, np.array([1, odd, 0]))
    samples = {"s0": {"npy": vector(1, 0, 1)}, "s1": {"npy": file.getvalue()}}
    root = write_set(tmp_path / "set", "multilabel", samples, ["cat", "dog", "owl"])
    with pytest.raises(RecipeError, match="labels of sample 's1' are not 3 zeros and ones"):
        opened(root)


def test_a_set_of_another_kind_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="retrieval set"):
        Multilabel(opened(write_captions(tmp_path / "set")))
