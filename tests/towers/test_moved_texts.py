"""Moved words are read as if the table had been another, and no movement changes nothing."""

import pytest
import torch

from tests.towers.tiny import CAPTIONS, SIGLIP_TEXT, TEXT, tiny_bert, tiny_model
from vlp.ground.types import WordEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.prefix_encoder import PrefixEncoder

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
    assert isinstance(encoder, WordEncoder)
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
        encoder.moved.embedding.weight[tokens[is_word].unique()] += 0.3
    torch.testing.assert_close(encoder.embed_texts(TEXTS), moved.detach(), atol=1e-5, rtol=0)


def test_gradients_reach_the_words_and_not_the_padding(encoder):
    tokens, is_word = encoder.read_texts(TEXTS)
    shift = torch.zeros(*tokens.shape, encoder.words.shape[1], requires_grad=True)
    encoder.embed_shifted(tokens, is_word, shift)[:, 0].sum().backward()
    assert (shift.grad[is_word] != 0).any(dim=-1).all()


def test_first_coordinates_are_cut():
    encoder = PrefixEncoder(TowerEncoder(tiny_model().eval()), 4)
    tokens, is_word = encoder.read_texts(CAPTIONS)
    assert encoder.embed_shifted(tokens, is_word, torch.zeros(*tokens.shape, 32)).shape == (len(CAPTIONS), 4)
