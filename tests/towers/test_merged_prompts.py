"""Learned tokens of captions are tokens of the vocabulary once they are merged, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from tests.towers.tiny import CAPTIONS, TEXT, tiny_bert, tiny_model
from vlp.towers.learned_tokens import prompted
from vlp.towers.merged_prompts import merge_prompts
from vlp.towers.more_tokens import put_into_every_text
from vlp.towers.token_table import token_table
from vlp.towers.tokenizers import ClipTokenizer, frame

PROMPTS = {"type": "prompts", "text": 3, "image": 0}
TEXTS = {"argmax": TEXT, "eos": {**TEXT, "pool": "eos"}, "bert": {"type": "transformers", "context_length": 16}}


def embed(model):
    tokens, lengths = model.tokenizer(CAPTIONS)
    with torch.no_grad():
        return model.eval().embed_tokens(tokens, lengths.numpy())


@pytest.mark.parametrize("case", TEXTS)
def test_merged_is_the_same_model(case, tmp_path):
    text = TEXTS[case] | ({"name": tiny_bert(tmp_path / "bert")} if case == "bert" else {})
    model = tiny_model(text=text, tune=PROMPTS)
    before, learned = embed(model), prompted(model.core.text).detach().clone()
    table = token_table(model.core.text).weight.detach().clone()
    merge_prompts(model)
    after = token_table(model.core.text)
    assert type(after) is torch.nn.Embedding
    assert torch.equal(after.weight, torch.cat([table, learned]))
    assert model.core.text.vocab_size == len(table) + 3
    assert model.caption_length == model.context_length
    assert model.tokenizer(CAPTIONS)[1].max() == model.context_length
    torch.testing.assert_close(embed(model), before, atol=1e-6, rtol=0)


def test_a_second_time_stands_in_front_of_the_first():
    plain = ClipTokenizer(context_length=20)
    once, ids = put_into_every_text(plain, 2, 20)
    twice, more = put_into_every_text(once, 1, 20)
    start, end = (part[0] for part in frame(plain))
    assert (ids, more) == ([49408, 49409], [49410])
    assert twice(["a cat"])[0].tolist() == [[start, *more, *ids, 320, 2368, end]]
    assert frame(twice) == ([start, *more, *ids], [end])


def test_a_tower_that_sees_zeros_keeps_its_tokens():
    model = tiny_model(text={**TEXT, "causal": False, "pool": "first", "context_length": 20}, tune=PROMPTS)
    before = embed(model)
    merge_prompts(model)
    assert len(prompted(model.core.text)) == 3
    assert torch.equal(embed(model), before)
