"""What tests of learned prompts share: a small set, a small model, and its towers read by hand."""

from __future__ import annotations

import torch

from tests.evaluators.splits import NAMES, write_splits
from tests.towers.tiny import tiny_model
from vlp.evaluators.dataset import DataSource, open_set
from vlp.towers.encoder import TowerEncoder

TRAIN = [i % 3 for i in range(18)]
TEST = [i % 3 for i in range(15)]
CONTEXT = "a photo of a"


def small_set(tmp_path):
    """Return a set of three classes with two splits."""
    return open_set(DataSource(root=str(write_splits(tmp_path / "set", train=TRAIN, test=TEST))))


def small_encoder(**settings):
    """Return the encoder of a small model with a vision transformer of two blocks."""
    return TowerEncoder(tiny_model(**settings).eval())


def see_by_hand(encoder, pixels):
    """Return the embedding of one image [3, h, w], and for each block the mean and deviation of every channel."""
    model = encoder.model
    visual = model.core.visual
    mean, std = (torch.tensor(model.preprocess_cfg[name])[:, None, None] for name in ("mean", "std"))
    found = []
    with torch.no_grad():
        tokens = visual._embeds(((pixels - mean) / std)[None])
        for block in visual.transformer.resblocks:
            tokens = block(tokens)
            places, means, deviations = tokens[0].tolist(), [], []
            for channel in zip(*places, strict=True):
                middle = sum(channel) / len(channel)
                means.append(middle)
                deviations.append((sum((value - middle) ** 2 for value in channel) / len(channel)) ** 0.5)
            found.append((torch.tensor(means), torch.tensor(deviations)))
        row = visual(((pixels - mean) / std)[None])[0]
    return row / row.norm(), found


def read_by_hand(encoder, context, name):
    """Return the embedding of `CONTEXT NAME.` whose first words have other vectors: block by block, no table moved."""
    model = encoder.model
    text = model.core.text
    tokens, _ = model.tokenizer([f"{CONTEXT} {name}."])
    length = tokens.shape[1]
    table = text.token_embedding.weight.detach()
    vectors = torch.cat([table[tokens[0, :1]], context, table[tokens[0, 1 + len(context) :]]])
    states = (vectors + text.positional_embedding[:length].detach())[None]
    for block in text.transformer.resblocks:
        states = block(states, attn_mask=text.attn_mask[:length, :length])
    row = text.ln_final(states)[0, int(tokens[0].argmax())] @ text.text_projection
    return row / row.norm()


def names():
    """Return the names of the classes."""
    return list(NAMES)
