"""Tolerance against all pairs, one by one."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from tests.evaluators.kinds import draw_rows, slopes, values_of, write_set
from tests.evaluators.sets import HashEncoder, opened
from tests.pretend_device import DEVICE, PretendDevice
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.tolerance import Tolerance, measure_tolerance
from vlp.ground.types import RecipeError

LABELS = torch.tensor([4, 0, 0, 4, 4, 7, 0, 7, 9])


def test_equals_all_pairs():
    rows = draw_rows(9, 5)
    cosines = (rows.double() @ rows.double().T).numpy()
    pairs = list(permutations(range(9), 2))
    same = [LABELS[i] == LABELS[j] for i, j in pairs]
    scores = np.array([cosines[pair] for pair in pairs])
    found = values_of(measure_tolerance(rows, LABELS))
    assert found["tolerance"] == pytest.approx(scores[same].mean())
    assert found["tolerance_all_pairs"] == pytest.approx((scores * same).mean())
    assert found["cosine_between_classes"] == pytest.approx(scores[np.logical_not(same)].mean())


def test_influences_are_derivatives_by_weights():
    rows = draw_rows(9, 5)
    cosines = (rows.double() @ rows.double().T).numpy()
    others = 1 - np.eye(9)
    same = (LABELS[:, None] == LABELS[None]).numpy() * others
    found = {metric.name: metric for metric in measure_tolerance(rows, LABELS).metrics}
    for name, taken, of in (
        ("tolerance", same, same),
        ("tolerance_all_pairs", same, others),
        ("cosine_between_classes", others - same, others - same),
    ):
        influences = slopes(
            lambda w, taken=taken, of=of: (w @ (cosines * taken) @ w) / (w @ of @ w),
            9,
        )
        spread = 1.959964 * np.sqrt(np.sum(influences**2))
        metric = found[name]
        assert metric.low == pytest.approx(max(-1, metric.value - spread), abs=1e-6), name
        assert metric.high == pytest.approx(min(1, metric.value + spread), abs=1e-6), name


def test_one_class_has_nothing_to_compare_with():
    found = values_of(measure_tolerance(torch.ones(3, 4) / 2, torch.zeros(3, dtype=torch.int64)))
    assert found == {"tolerance": pytest.approx(1), "tolerance_all_pairs": pytest.approx(1)}


def test_the_device_of_the_model_will_do():
    expected = values_of(measure_tolerance(draw_rows(9, 5), LABELS))
    with PretendDevice():
        found = values_of(measure_tolerance(draw_rows(9, 5).to(DEVICE), LABELS.to(DEVICE)))
    assert found == pytest.approx(expected)


def test_a_set_without_two_images_of_a_class_is_refused(tmp_path):
    labels = {"a": {"cls": b"0"}, "b": {"cls": b"1"}, "c": {"cls": b"1"}}
    data = opened(write_set(tmp_path / "set", "classification", labels, ["cat", "dog"]))
    encoder = SharedEncoder(HashEncoder())
    images = encoder.images(data)
    assert Tolerance(data).run(encoder).metrics[0].value == pytest.approx(float(images[1] @ images[2]))
    alone = write_set(tmp_path / "alone", "classification", {k: labels[k] for k in "ab"}, ["cat", "dog"])
    with pytest.raises(RecipeError, match="no class has two images"):
        Tolerance(opened(alone))
