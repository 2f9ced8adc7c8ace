"""Short captions first: where they are cut, that they end, and that the tower pools where they do."""

from __future__ import annotations

import pytest
import torch

from tests.strategies.runs import STEADY, assert_resumes, recipe_of
from vlp.ground.types import Batch
from vlp.strategies.short_first import ShortFirst
from vlp.towers.tokenizers import tokenizer_for

END = 99


def batch_of(captions: list[list[int]]) -> Batch:
    lengths = torch.tensor([[len(caption) for caption in captions]])
    width = int(lengths.max())
    tokens = torch.tensor([[[*caption, *[0] * (width - len(caption))] for caption in captions]])
    ids = torch.arange(len(captions))
    images = torch.zeros(1, len(captions), 2, 2, 3, dtype=torch.uint8)
    return Batch(images, tokens, lengths, torch.zeros(1, len(captions), 1), ids, ids, ("tiny",) * len(captions))


def test_captions_are_cut_and_keep_their_ends():
    batch = batch_of([[1, 2, 3, 4, 5, END], [1, 2, END], [1, END], [1, 2, 3, END]])
    cut = ShortFirst(tokens=3, steps=1).before_forward(batch)
    assert cut.tokens[0].tolist() == [[1, 2, END], [1, 2, END], [1, END, 0], [1, 2, END]]
    assert cut.lengths[0].tolist() == [3, 3, 2, 3]
    assert batch.tokens[0, 0].tolist() == [1, 2, 3, 4, 5, END]  # the stream's own


def test_captions_are_cut_as_a_tokenizer_cuts():
    words = ["a photograph of a dog that runs along the beach", "a cat", "two old ships in a harbour at night"]
    long, short = (tokenizer_for({"context_length": length}) for length in (32, 7))
    whole, lengths = long(words)
    ids = torch.arange(3)
    images = torch.zeros(1, 3, 2, 2, 3, dtype=torch.uint8)
    batch = Batch(images, whole[None], lengths[None], torch.zeros(1, 3, 1), ids, ids, ("tiny",) * 3)
    cut = ShortFirst(tokens=7, steps=1).before_forward(batch)
    tokens, short_lengths = short(words)
    assert torch.equal(cut.tokens[0], tokens) and torch.equal(cut.lengths[0], short_lengths)


def test_they_are_whole_once_the_steps_are_over():
    strategy, batch = ShortFirst(tokens=2, steps=2), batch_of([[1, 2, 3, END]])
    widths = []
    for taken in (True, False, True, True):
        widths.append(strategy.before_forward(batch).tokens.shape[-1])
        strategy.after_step(None, torch.tensor(taken))
    assert widths == [2, 2, 2, 4]


@pytest.mark.parametrize("settings", [{"tokens": 1, "steps": 1}, {"tokens": 4, "steps": 0}])
def test_what_would_do_nothing_or_harm_is_refused(settings):
    with pytest.raises(ValueError, match="must be at least"):
        ShortFirst(**settings)


def test_resume_equals_no_interruption(tmp_path):
    assert_resumes(
        recipe_of(tmp_path, STEADY, "strategies={short_first: {tokens: 3, steps: 4}}", "evaluation.weights=model")
    )
