"""Pairs: sums and means by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vlp.ground.types import Embeddings
from vlp.pairs import Pairs

IMAGE = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
TEXT = torch.tensor([[0.6, 0.8], [0.0, 1.0]])


def pairs_of(reference=None):
    embeddings = Embeddings(IMAGE, TEXT, torch.tensor(10.0), torch.tensor(-1.0), reference=reference)
    return Pairs(embeddings, torch.tensor([4, 5]), torch.tensor([7, 7]))


def test_positive_logits_by_hand():
    assert pairs_of().positive_logits.tolist() == pytest.approx([6.0, 10.0])


def test_miss_is_minus_log_of_the_softmax_share():
    wrong = torch.tensor([5.0, 12.0])
    expected = [-math.log(math.exp(6) / (math.exp(6) + math.exp(5))), -math.log(1 / (1 + math.exp(2)))]
    assert pairs_of().miss(wrong).tolist() == pytest.approx(expected, rel=1e-5)


def test_miss_without_negatives_is_zero():
    assert pairs_of().miss(torch.full((2,), -torch.inf)).tolist() == [0.0, 0.0]


def test_means_by_hand():
    pairs = pairs_of()
    assert pairs.mean_image.tolist() == [0.5, 0.5]
    assert pairs.mean_text.tolist() == pytest.approx([0.3, 0.9])
    assert pairs.mean(torch.tensor([1.0, 2.0])).item() == 1.5
    assert pairs.log_total_exp(torch.tensor([1000.0, 1000.0])).item() == pytest.approx(1000 + math.log(2))


def test_reference_features_have_unit_norm():
    pairs = pairs_of(reference=torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    torch.testing.assert_close(pairs.reference, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))


def test_a_block_of_one_modality_is_symmetric():
    assert pairs_of().block("image_image").symmetric
    assert not pairs_of().block("image_text").symmetric
