"""Quantiles of scores against sorting all of them, and what their intervals hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.evaluators.kinds import draw_rows
from vlp.evaluators.score_quantiles import FINE_BINS, QUANTILES, score_quantiles


def draw(size=90, width=6):
    images = draw_rows(size, width).double()
    return images, torch.nn.functional.normalize(images + draw_rows(size, width, seed=1).double(), dim=1)


def by_name(images, texts):
    return {metric.name: metric for metric in score_quantiles(images, texts)}


def negatives_of(images, texts):
    scores = (images @ texts.T).numpy()
    return scores[~np.eye(len(scores), dtype=bool)]


@pytest.mark.parametrize("chunk", [512, 31])
def test_equal_sorted_scores(monkeypatch, chunk):
    monkeypatch.setattr("vlp.evaluators.score_tiles.CHUNK", chunk)
    images, texts = draw()
    found = by_name(images, texts)
    for name, share in QUANTILES.items():
        assert found[f"positive_{name}"].value == pytest.approx(np.quantile((images * texts).sum(1), share))
        ordered = np.sort(negatives_of(images, texts))
        expected = ordered[int(share * len(ordered))]
        assert found[f"negative_{name}"].value == pytest.approx(expected, abs=1.01 / FINE_BINS)


def test_intervals_of_negatives_hold_the_truth():
    images, texts = draw(1500)
    truth = {name: np.quantile(negatives_of(images, texts), share) for name, share in QUANTILES.items()}
    held = dict.fromkeys(truth, 0)
    for part in range(60):
        chosen = torch.randperm(1500, generator=torch.Generator().manual_seed(part))[:80]
        found = by_name(images[chosen], texts[chosen])
        for name, value in truth.items():
            held[name] += found[f"negative_{name}"].low <= value <= found[f"negative_{name}"].high
    assert min(held.values()) >= 51, held


def test_equal_scores_have_one_quantile():
    rows = torch.eye(1, 4).repeat(200, 1).double()
    for metric in score_quantiles(rows, rows):
        assert (metric.low, metric.high) == (metric.value, metric.value)
        assert metric.value == pytest.approx(1, abs=1.01 / FINE_BINS)
