"""BarlipTerm against a slow reading of the paper, and the batch that it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import DIM, pairs_of, share_of, unit
from vlp.objectives.barlip import BarlipTerm
from vlp.objectives.shared.heads import EPSILON, Perceptron, standardize

VARIANTS = [{"hidden_width": 8, "width": 5, "redundancy": 0.3, "factor": 1.0}]


def built(**settings) -> BarlipTerm:
    torch.manual_seed(0)
    term = BarlipTerm(**{"hidden_width": 8, "width": 5, **settings})
    term.create(DIM)
    return term.double()


def standardized_by_hand(rows):
    """Each column with mean 0 and variance 1."""
    columns = []
    for column in zip(*rows.tolist(), strict=True):
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        columns.append([(value - mean) / math.sqrt(variance + EPSILON) for value in column])
    return columns


def projected_by_hand(head, rows):
    """Linear, normalise, rectify, twice; then linear and normalise."""
    for layer, norm in zip(head.layers[:-1], head.norms, strict=True):
        columns = standardized_by_hand(rows @ layer.weight.T)
        values = [
            [max(0.0, float(norm.stretch[k]) * value + float(norm.shift[k])) for value in column]
            for k, column in enumerate(columns)
        ]
        rows = torch.tensor(values, dtype=torch.float64).T
    return standardized_by_hand(rows @ head.layers[-1].weight.T + head.layers[-1].bias)


def barlip_by_hand(images, texts, redundancy, factor):
    size, total = len(images[0]), 0.0
    for a, u in enumerate(images):
        for b, v in enumerate(texts):
            correlation = sum(x * y for x, y in zip(u, v, strict=True)) / size
            total += (correlation - 1) ** 2 if a == b else redundancy * correlation**2
    return factor * total


@torch.no_grad()
def test_matches_paper_over_all_views():
    image, text, image1 = unit(7, DIM, 1), unit(7, DIM, 2), unit(7, DIM, 3)
    term = built(redundancy=0.1, factor=0.5)
    for norm in (*term.project_image.norms, *term.project_text.norms):
        norm.stretch.mul_(1.5)
        norm.shift.add_(0.2)
    views = [projected_by_hand(term.project_image, view) for view in (image, image1)]
    projected_text = projected_by_hand(term.project_text, text)
    expected = sum(barlip_by_hand(view, projected_text, 0.1, 0.5) for view in views) / 2
    value = share_of(term, pairs_of(image, text, image_views=(image1,))).item()
    assert value == pytest.approx(expected, rel=1e-9)


def test_features_that_correlate_with_themselves_alone_cost_nothing():
    """Columns of a Hadamard matrix without the constant one: C is the identity."""
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    rows = torch.kron(torch.kron(two, two), two)[:, 1:]
    term = BarlipTerm(redundancy=1.0, factor=1.0)
    term.project_image = term.project_text = lambda pairs, rows: rows
    assert share_of(term, pairs_of(rows, rows)).item() == pytest.approx(0.0, abs=1e-8)
    assert share_of(term, pairs_of(rows, -rows)).item() == pytest.approx(4 * 7, rel=1e-4)


def test_heads_equal_torch_batch_norm():
    torch.manual_seed(0)
    head = Perceptron(DIM, 8, 5).double()
    rows = unit(9, DIM, 1)
    norm = torch.nn.BatchNorm1d(8).double()
    expected = head.layers[1](norm(head.layers[0](rows)).relu())
    torch.testing.assert_close(head(pairs_of(rows, rows), rows), expected)
    torch.testing.assert_close(
        standardize(pairs_of(rows, rows), rows), torch.nn.BatchNorm1d(DIM, affine=False).double()(rows)
    )
