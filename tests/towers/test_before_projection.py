"""What towers know before their projections is what their projections take in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.towers.tiny import TEXT, tiny_bert, tiny_model
from vlp.towers.feature_widths import feature_widths

TOKENS = torch.tensor([[49406, 320, 2368, 49407, 0], [49406, 320, 49407, 0, 0], [49406, 1, 2, 3, 49407]])
LENGTHS = torch.tensor([4, 3, 5]).numpy()
UNPACKED = {**TEXT, "causal": False, "pool": "last"}


def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def projected(features, projection):
    return functional.normalize(projection(features) if callable(projection) else features @ projection, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("text", [TEXT, UNPACKED])
def test_projections_of_features_are_the_embeddings(text):
    model = tiny_model(text=text, embed_dim=12).eval()
    core = model.core
    assert feature_widths(model) == (32, 32)
    torch.testing.assert_close(
        projected(model.image_features(pixels()), core.visual.proj), model.embed_images(pixels())
    )
    read = model.token_features(TOKENS, LENGTHS)
    torch.testing.assert_close(projected(read, core.text.text_projection), model.embed_tokens(TOKENS, LENGTHS))


@torch.no_grad()
def test_a_timm_tower_and_captions_in_groups_give_theirs(tmp_path):
    bert = {"type": "transformers", "name": tiny_bert(tmp_path / "bert"), "context_length": 16}
    model = tiny_model({"type": "timm", "name": "resnet10t", "image_size": 32}, bert, embed_dim=12).eval()
    projection = model.core.visual.head.proj
    torch.testing.assert_close(projected(model.image_features(pixels()), projection), model.embed_images(pixels()))
    tokens, lengths = model.tokenizer(["a cat", "two dogs of the leash", "photo", "a photo of a cat"])
    read = model.token_features(tokens, lengths.numpy())
    torch.testing.assert_close(projected(read, model.core.text.proj), model.embed_tokens(tokens, lengths.numpy()))


@torch.no_grad()
def test_a_forward_hands_out_the_features_of_every_view():
    model = tiny_model(embed_dim=12).eval()
    images, tokens = torch.stack([pixels(), pixels().flip(3)]), torch.stack([TOKENS, TOKENS.flip(0)])
    lengths = torch.stack([torch.tensor(LENGTHS), torch.tensor(LENGTHS).flip(0)]).numpy()
    plain = model(images, tokens, lengths)
    model.hands_out_features = True
    found = model(images, tokens, lengths)
    assert not plain.image_features and [len(found.image_features), len(found.text_features)] == [2, 2]
    torch.testing.assert_close(found.image_views[0], plain.image_views[0])
    torch.testing.assert_close(found.image_features[1], model.image_features(images[1]))
    torch.testing.assert_close(found.text_features[1], model.token_features(tokens[1], lengths[1]))


def test_dropout_is_for_changed_captions_alone():
    model, tokens = tiny_model(text_dropout=0.5), torch.stack([TOKENS, TOKENS])
    lengths = np.stack([LENGTHS, LENGTHS])

    def read(mode):
        model.train(mode)
        with torch.no_grad():
            found = model(pixels()[None], tokens, lengths)
        return found.text, found.text_views[0]

    (still, as_still), (text, changed) = read(False), read(True)
    torch.testing.assert_close(still, as_still)
    torch.testing.assert_close(text, still)
    assert (changed - still).abs().amax() > 1e-3
    assert not torch.equal(read(True)[1], changed)
