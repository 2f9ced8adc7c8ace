"""The cross-entropy of a vocabulary: exact, with gradients, and never with all logits at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from vlp.step.kept_bytes import KeptBytes
from vlp.towers import linear_cross_entropy as module
from vlp.towers.linear_cross_entropy import linear_cross_entropy

WORDS, WIDTH = 11, 5


def draw(tokens, dtype=torch.float64, words=WORDS):
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(WIDTH, words, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(words, (tokens,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), labels


@pytest.mark.parametrize("logits", [1, 3 * WORDS, 10_000])
def test_is_what_a_loop_over_tokens_and_words_says(monkeypatch, logits):
    monkeypatch.setattr(module, "LOGITS", logits)
    hidden, weight, labels = draw(7)
    for token, found in enumerate(linear_cross_entropy(hidden, weight, labels).tolist()):
        scores = [
            sum(h * w for h, w in zip(hidden[token].tolist(), column, strict=True)) for column in weight.T.tolist()
        ]
        expected = math.log(sum(math.exp(score) for score in scores)) - scores[labels[token]]
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("logits", [WORDS, 4 * WORDS])
def test_gradients_are_slopes(monkeypatch, logits):
    monkeypatch.setattr(module, "LOGITS", logits)
    hidden, weight, labels = draw(6)
    assert torch.autograd.gradcheck(lambda one, other: linear_cross_entropy(one, other, labels), (hidden, weight))


def test_tokens_may_weigh_differently(monkeypatch):
    monkeypatch.setattr(module, "LOGITS", 2 * WORDS)
    weights = torch.tensor([1.0, 0.0, -2.0, 0.5, 3.0]).double()
    found = []
    for function in (linear_cross_entropy, lambda h, w, y: functional.cross_entropy(h @ w, y, reduction="none")):
        hidden, weight, labels = draw(5)
        (function(hidden, weight, labels) * weights).sum().backward()
        found.append([hidden.grad, weight.grad])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_large_logits_stay_finite():
    hidden, weight, labels = draw(5, torch.float32)
    losses = linear_cross_entropy(1e4 * hidden, weight, labels)
    losses.sum().backward()
    assert losses.isfinite().all() and weight.grad.isfinite().all()


def test_what_is_locked_gets_no_gradient():
    hidden, weight, labels = draw(4)
    linear_cross_entropy(hidden.detach(), weight, labels).sum().backward()
    assert hidden.grad is None and weight.grad is not None
    linear_cross_entropy(hidden, weight.detach(), labels).sum().backward()
    assert hidden.grad is not None


def test_nothing_of_the_size_of_all_logits_is_kept():
    hidden, weight, labels = draw(2_000, torch.float32, words=500)
    kept = KeptBytes(math.inf, (hidden, weight))
    with kept:
        loss = linear_cross_entropy(hidden, weight, labels).sum()
        assert kept.bytes <= 4 * 2_000 * 5  # losses, labels
    loss.backward()


def test_no_token_costs_nothing():
    hidden, weight, _ = draw(3)
    assert linear_cross_entropy(hidden[:0], weight, torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_half_precision_rounds_products_alone():
    hidden, weight, labels = draw(64, torch.float32, words=100)
    half = linear_cross_entropy(hidden, weight, labels, torch.bfloat16)
    half.sum().backward()
    rough = [hidden.grad.clone(), weight.grad.clone()]
    hidden.grad = weight.grad = None
    exact = linear_cross_entropy(hidden, weight, labels)
    exact.sum().backward()
    assert half.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0, atol=0.05)  # 8 bits of logits below 10
    torch.testing.assert_close(rough[1], weight.grad, rtol=0, atol=0.3)
