"""The multimodal half of a COSMO: which image each token sees, by hand, and that its gates begin shut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.towers.tiny import COCA, tiny_model
from vlp.ground.interleaved import Interleaved
from vlp.ground.types import RecipeError
from vlp.towers.gated_decoder import TanhGate
from vlp.towers.generation.caption_writer import CaptionWriter
from vlp.towers.writing import Writing

FEW_WORDS = {"text": {**COCA["text"], "vocab_size": 500}}
GATED = {**COCA, **FEW_WORDS, "decoder": {"type": "gated", "layers": 3, "heads": 2, "every": 2}}
NUM_IMAGES = np.array([3, 1, 2])
SEEN = np.array(
    [[0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]]
)


def gated(**settings):
    return tiny_model(**{**GATED, **settings}).eval()


def inputs(model, generator=0):
    """Return pixels, tokens, lengths and which image is seen, of three documents."""
    random = torch.Generator().manual_seed(generator)
    pixels = torch.randn(3, 3, 3, 32, 32, generator=random)
    tokens = torch.randint(5, 400, (1, *SEEN.shape), generator=random)
    lengths = np.array([[11, 4, 11]])
    tokens[0, 1, 4:] = 0
    return pixels, tokens, lengths, Interleaved(NUM_IMAGES, SEEN, 3)


def embed(model, pixels, tokens, lengths, interleaved):
    return model(pixels, tokens, lengths, interleaved=interleaved)


def normed(norm, rows):
    rows = rows - rows.mean(-1, keepdim=True)
    return rows / (rows.var(-1, keepdim=True, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias


def attended(block, row, keys, heads=2):
    """What a token's row takes from the rows that it sees, one head at a time."""
    weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
    query, key, value = (part @ w.T + b for part, w, b in zip((row, keys, keys), weights, biases, strict=True))
    size, found = len(query) // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = torch.stack([query[part] @ each[part] / math.sqrt(size) for each in key])
        shares = scores.exp() / scores.exp().sum()
        found.append(sum(share * each[part] for share, each in zip(shares, value, strict=True)))
    return block.attn.out_proj(torch.cat(found))


def states_by_hand(decoder, images, text, seen, looks):
    """States of one document's tokens: every second block of text after one that looks, through its two gates."""
    rows = list(text)
    for number, block in enumerate(decoder.resblocks):
        if number % 2 == 0:
            looking = decoder.cross_attn[number // 2]
            first, second = looking.ls_1.openness.tanh(), looking.ls_2.openness.tanh()
            for place, image in enumerate(seen):
                kept = [images[image - 1]] if looks == "latest" else list(images[:image])
                if image:
                    keys = normed(looking.ln_1_kv, torch.cat(kept))
                    rows[place] = rows[place] + first * attended(looking, normed(looking.ln_1, rows[place]), keys)
                rows[place] = rows[place] + second * looking.mlp(normed(looking.ln_2, rows[place]))
        before = [normed(block.ln_1, row) for row in rows]
        for place in range(len(rows)):
            rows[place] = rows[place] + attended(block, before[place], torch.stack(before[: place + 1]))
        rows = [row + block.mlp(normed(block.ln_2, row)) for row in rows]
    return torch.stack([normed(decoder.ln_final, row) for row in rows])


@torch.no_grad()
@pytest.mark.parametrize("looks", ["latest", "earlier"])
def test_losses_and_embeddings_are_those_of_a_slow_reading(looks):
    model = gated(decoder={**GATED["decoder"], "looks": looks})
    pixels, tokens, lengths, interleaved = inputs(model)
    found = embed(model, pixels, tokens, lengths, interleaved)
    for row, (count, length) in enumerate(zip(NUM_IMAGES, lengths[0], strict=True)):
        images = [model.core.visual(pixels[view, row][None]) for view in range(count)]
        _, text = model.core.text(tokens[0, row, :length][None])
        states = states_by_hand(model.decoder, [states[0] for _, states in images], text[0], SEEN[row, :length], looks)
        shares = (states @ model.decoder.text_projection).log_softmax(dim=-1)
        seen = SEEN[row]
        places = [t for t in range(1, length) if seen[t] and seen[t] == seen[t - 1]]
        loss = -sum(float(shares[t - 1, tokens[0, row, t]]) for t in places)
        assert float(found.caption_losses[row]) == pytest.approx(loss, rel=1e-4)
        assert found.caption_words[row] == len(places)
        mean = sum(embedding[0] for embedding, _ in images) / int(count)
        torch.testing.assert_close(found.image[row], mean / mean.norm(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_image_changes_what_follows_it_and_absent_ones_nothing():
    model = gated()
    pixels, tokens, lengths, interleaved = inputs(model)
    before = embed(model, pixels, tokens, lengths, interleaved)
    changed = pixels.clone()
    changed[1:, 1] = 9.0  # the second document has one image
    changed[2, 2] = 9.0
    after = embed(model, changed, tokens, lengths, interleaved)
    for one, other in ((before.image, after.image), (before.caption_losses, after.caption_losses)):
        assert torch.equal(one, other)
    changed[0, 0] += 1.0
    moved = embed(model, changed, tokens, lengths, interleaved).caption_losses - before.caption_losses
    assert [bool(value) for value in moved.abs() > 1e-6] == [True, False, False]


@torch.no_grad()
def test_a_document_of_one_image_is_a_pair():
    model = gated()
    pixels, tokens, lengths, _ = inputs(model)
    seen = (np.arange(SEEN.shape[1]) < lengths[0][:, None]).astype(np.int64)
    one = embed(model, pixels[:1], tokens, lengths, Interleaved(np.ones(3, dtype=np.int64), seen, 1))
    pair = model(pixels[:1], tokens, lengths)
    for name in ("image", "text", "caption_losses", "caption_words"):
        torch.testing.assert_close(getattr(one, name), getattr(pair, name), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_at_the_start_the_decoder_sees_no_image_and_its_gates_have_gradients():
    model = tiny_model(**GATED, moved=False)
    pixels, tokens, lengths, interleaved = inputs(model)
    losses = [embed(model, each, tokens, lengths, interleaved).caption_losses for each in (pixels, pixels * 3)]
    assert torch.equal(*losses)
    with torch.enable_grad():
        embed(model, pixels, tokens, lengths, interleaved).caption_losses.sum().backward()
    gates = [module for module in model.decoder.modules() if isinstance(module, TanhGate)]
    assert len(gates) == 4 and all(gate.openness.grad.abs() > 0 for gate in gates)


def test_recomputed_activations_change_nothing():
    plain, frugal = tiny_model(**GATED), tiny_model(**GATED, grad_checkpointing=True)
    for model in (plain, frugal):
        embed(model, *inputs(model)).caption_losses.sum().backward()
    for ours, theirs in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@torch.no_grad()
def test_it_writes_the_words_that_a_whole_pass_finds_likeliest():
    model = gated(text=COCA["text"])
    pixels = inputs(model)[0][0][:1]
    written = CaptionWriter(model, Writing(max_words=4)).ids(pixels)[0]
    rows = torch.tensor([[49406]])
    _, image_tokens = model.core.visual(pixels)
    for word in written:
        likeliest = model.decoder(image_tokens, model.core.text(rows)[1])[0, -1].argmax()
        assert likeliest == word
        rows = torch.cat([rows, likeliest.view(1, 1)], dim=1)


def test_blocks_are_counted_in_the_order_in_which_they_compute():
    blocks = gated().blocks_behind()
    behind = [blocks[f"core.text_decoder.{name}.ln_1.weight"] for name in (
        "cross_attn.0", "resblocks.0", "resblocks.1", "cross_attn.1", "resblocks.2"
    )]  # fmt: skip
    assert behind == [5, 4, 3, 2, 1]


def test_it_needs_as_many_blocks_as_lie_between_those_that_look():
    with pytest.raises(RecipeError, match=r"model\.decoder\.every: 4 is not from 1 to layers=3"):
        gated(decoder={**GATED["decoder"], "every": 4})
