"""Calibration by hand, and through a task."""

import pytest
import torch

from tests.evaluators.sets import HashEncoder, task_on, write_classes
from vlp.evaluators.calibration import calibrate
from vlp.evaluators.tasks import run_task


def test_the_gap_by_hand():
    """Two images at 0.6, one of them right; one at 0.9, right: (|1.2 - 1| + |0.9 - 1|) / 3."""
    probabilities = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9]])
    found = calibrate(probabilities, torch.tensor([0, 1, 1]), num_bins=2)
    assert found.metrics[0].value == pytest.approx(abs(0.6 + 0.6 + 0.9 - 2) / 3)
    found = calibrate(probabilities, torch.tensor([0, 1, 1]), num_bins=4)
    assert found.metrics[0].value == pytest.approx((0.2 + 0.1) / 3)
    assert found.details["images_per_bin"] == [0, 0, 2, 1]


def test_who_is_sure_and_right_is_calibrated():
    found = calibrate(torch.eye(3), torch.arange(3), num_bins=15)
    assert [metric.value for metric in found.metrics] == [0, 1, 1]


def test_a_task_has_its_numbers(tmp_path):
    task = task_on(write_classes(tmp_path / "set"), "calibration", "ece")
    record = run_task(task, HashEncoder(), model="none")
    assert 0 <= record["metrics"]["ece"]["value"] <= 1
