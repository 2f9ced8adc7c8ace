"""Moved words are read as if the table had been another, and no movement changes nothing."""

import copy

import pytest
import torch

from tests.towers.tiny import CAPTIONS, SIGLIP_TEXT, TEXT, tiny_bert, tiny_model
from vlp.ground.offers import offers
from vlp.ground.types import WordEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.moved_tokens import MovedTokens
from vlp.towers.prefix_encoder import PrefixEncoder
from vlp.towers.token_table import token_table

TEXTS = ["a photo of a cat", "dogs", "two dogs"]


@pytest.fixture(params=["causal", "last", "bert"])
def encoder(request, tmp_path):
    text = {
        "causal": TEXT,
        "last": SIGLIP_TEXT,
        "bert": {"type": "transformers", "name": tiny_bert(tmp_path), "context_length": 16},
    }[request.param]
    return TowerEncoder(tiny_model(text=text).eval())


def test_unmoved_words_give_the_usual_embeddings(encoder):
    assert offers(encoder, WordEncoder)
    tokens, is_word = encoder.read_texts(TEXTS)
    nothing = torch.zeros(*tokens.shape, encoder.words.shape[1])
    torch.testing.assert_close(
        encoder.embed_shifted(tokens, is_word, nothing), encoder.embed_texts(TEXTS), atol=1e-5, rtol=0
    )
    assert is_word.sum(dim=1).tolist() == [5, 1, 2]


def test_a_shift_is_another_table(encoder):
    tokens, is_word = encoder.read_texts(TEXTS)
    shift = torch.zeros(*tokens.shape, encoder.words.shape[1])
    shift[:] = 0.3  # the marks do not move
    moved = encoder.embed_shifted(tokens, is_word, shift)
    with torch.no_grad():
        token_table(encoder.model.core.text).weight[tokens[is_word].unique()] += 0.3
    torch.testing.assert_close(encoder.embed_texts(TEXTS), moved.detach(), atol=1e-5, rtol=0)


def test_gradients_reach_the_words_and_not_the_padding(encoder):
    tokens, is_word = encoder.read_texts(TEXTS)
    shift = torch.zeros(*tokens.shape, encoder.words.shape[1], requires_grad=True)
    encoder.embed_shifted(tokens, is_word, shift)[:, 0].sum().backward()
    assert (shift.grad[is_word] != 0).any(dim=-1).all()


def test_encoders_of_one_model_do_not_move_each_other_s_words():
    model = tiny_model().eval().requires_grad_(False)
    first, second = TowerEncoder(model), TowerEncoder(model)
    tokens, is_word = first.read_texts(TEXTS)
    expected = second.embed_shifted(tokens, is_word, torch.zeros(*tokens.shape, second.words.shape[1]))
    for encoder in (first, second, first):
        shift = torch.ones(*tokens.shape, encoder.words.shape[1], requires_grad=True)
        encoder.embed_shifted(tokens.flip(0), is_word.flip(0), shift)[:, 0].sum().backward()
    again = second.embed_shifted(tokens, is_word, torch.zeros(*tokens.shape, second.words.shape[1]))
    assert torch.equal(again, expected)
    assert not again.requires_grad
    assert not copy.deepcopy(model).core.text.token_embedding._forward_hooks


def test_the_newest_answers_to_the_names():
    model = tiny_model().eval().requires_grad_(False)
    encoder = TowerEncoder(model)
    tokens, is_word = encoder.read_texts(TEXTS)
    nothing = torch.zeros(*tokens.shape, encoder.words.shape[1])
    expected = encoder.embed_shifted(tokens, is_word, nothing)
    MovedTokens(model.core.text).place(tokens.flip(0), nothing.flip(0) + 1)  # those of a strategy, say
    assert torch.equal(encoder.embed_shifted(tokens, is_word, nothing), expected)


def test_first_coordinates_are_cut():
    encoder = PrefixEncoder(TowerEncoder(tiny_model().eval()), 4)
    tokens, is_word = encoder.read_texts(CAPTIONS)
    assert encoder.embed_shifted(tokens, is_word, torch.zeros(*tokens.shape, 32)).shape == (len(CAPTIONS), 4)
