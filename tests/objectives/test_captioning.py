"""CaptioningTerm: a mean over words, whatever their captions; a batch's mean is no mean of its parts' means."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, extras, pairs_of, share_of, unit
from vlp.objectives.captioning import CaptioningTerm

NO_TOWER = [{}]


def value(losses, words):
    pairs = pairs_of(unit(3, DIM, 1), unit(3, DIM, 2), caption_losses=losses, caption_words=torch.tensor(words))
    return share_of(CaptioningTerm(), pairs)


def test_is_the_mean_over_all_words_of_all_captions():
    captions = [[0.5, 1.5, 2.0], [4.0], [1.0, 1.0]]
    total, words = 0.0, 0
    for caption in captions:
        for loss in caption:
            total, words = total + loss, words + 1
    losses = torch.tensor(list(map(sum, captions)), dtype=torch.float64, requires_grad=True)
    assert value(losses, [3, 1, 2]).item() == pytest.approx(total / words)


def test_every_word_weighs_the_same():
    losses = torch.tensor([6.0, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    value(losses, [3, 1, 2]).backward()
    assert losses.grad.tolist() == pytest.approx([1 / 6] * 3)


def test_a_caption_without_words_adds_none():
    assert value(torch.tensor([6.0, 0.0, 2.0], requires_grad=True), [3, 0, 1]).item() == pytest.approx(2.0)


def test_a_caption_that_cannot_be_told_spoils_the_step():
    more = extras(4)
    with torch.no_grad():
        more["caption_losses"][2] = torch.nan
    assert not share_of(CaptioningTerm(), pairs_of(*draw_leaves(4), **more)).isfinite()
