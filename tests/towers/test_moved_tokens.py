"""Names of tokens travel through every text tower, and stand for the token plus an offset."""

import pytest
import torch

from tests.towers.tiny import SIGLIP_TEXT, TEXT, tiny_bert, tiny_model
from vlp.towers.moved_tokens import MovedTokens, named

CAPTIONS = ["a cat", "two dogs of the photo", "the leash", "a photo of two dogs"]


@pytest.fixture(params=["packed", "cut", "siglip", "transformers"])
def model(request, tmp_path):
    text = {"siglip": SIGLIP_TEXT, "transformers": {"type": "transformers", "context_length": 16}}
    text = dict(text.get(request.param, TEXT))
    if request.param == "transformers":
        text["name"] = tiny_bert(tmp_path)
    made = tiny_model(text=text, text_buckets=2).eval()
    if request.param == "cut":  # somebody listens to an attention, so that the tower runs group by group
        made.core.text.transformer.resblocks[0].attn.register_forward_hook(lambda *_: None)
    return made


def layout(model):
    tokens, lengths = model.tokenizer(CAPTIONS)
    places = torch.arange(tokens.shape[1])
    return tokens, lengths, (places > 0) & (places < lengths[:, None] - 1)


def test_without_offsets_names_mean_the_tokens(model):
    tokens, lengths, movable = layout(model)
    expected = model.embed_tokens(tokens, lengths.numpy())
    moved = MovedTokens(model.core.text)
    moved.place(tokens)
    names = named(tokens, movable)
    assert (names < 0).equal(movable)
    torch.testing.assert_close(model.embed_tokens(names, lengths.numpy()), expected)


def test_offsets_move_the_named_tokens_of_their_own_caption(model):
    tokens, lengths, movable = layout(model)
    moved = MovedTokens(model.core.text)
    clean = model.embed_tokens(tokens, lengths.numpy())
    offsets = torch.zeros(*tokens.shape, moved.width)
    offsets[1, 2, ::2] = 1.0  # not all coordinates, whose mean a layer norm takes away
    moved.place(tokens, offsets)
    found = model.embed_tokens(named(tokens, movable), lengths.numpy())
    changed = (found - clean).abs().amax(dim=1) > 1e-5
    assert changed.tolist() == [False, True, False, False]
    torch.testing.assert_close(model.embed_tokens(tokens, lengths.numpy()), clean)  # without names nothing moves


def test_gradients_reach_the_offsets_of_named_tokens_alone(model):
    tokens, lengths, movable = layout(model)
    moved = MovedTokens(model.core.text)
    offsets = torch.zeros(*tokens.shape, moved.width, requires_grad=True)
    moved.place(tokens, offsets)
    found = model.embed_tokens(named(tokens, movable), lengths.numpy())
    (gradient,) = torch.autograd.grad(found.sin().sum(), offsets)
    assert (gradient.abs().sum(dim=2) > 0).equal(movable)


def test_a_part_of_the_batch_has_a_table_of_its_own(model):
    tokens, lengths, movable = layout(model)
    names, moved = named(tokens, movable), MovedTokens(model.core.text)
    offsets = 0.1 * torch.randn(*tokens.shape, moved.width, generator=torch.Generator().manual_seed(0))
    moved.place(tokens, offsets)
    whole = model.embed_tokens(names, lengths.numpy())
    for part in (slice(0, 2), slice(2, 4)):
        moved.place(tokens[part], offsets[part])
        torch.testing.assert_close(model.embed_tokens(names[part], lengths[part].numpy()), whole[part])


def test_norms_are_those_of_named_tokens(model):
    tokens, lengths, movable = layout(model)
    moved = MovedTokens(model.core.text)
    moved.place(tokens)
    with moved.measuring() as norms:
        model.embed_tokens(named(tokens, movable), lengths.numpy())
    total, number = torch.stack(norms).sum(dim=0)
    embedding = getattr(model.core.text, "token_embedding", None) or model.core.text.transformer.get_input_embeddings()
    by_hand = [embedding.weight[token].norm().item() for token in tokens[movable]]
    assert number == len(by_hand)
    assert float(total) == pytest.approx(sum(by_hand), rel=1e-5)
