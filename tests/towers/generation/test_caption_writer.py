"""Captions in words: what a step keeps changes nothing, and open_clip's own search finds the same tokens."""

from __future__ import annotations

import math

import pytest
import torch

from tests.towers.generation.peer import let_generate
from tests.towers.test_caption_decoder import _their_folder
from tests.towers.tiny import COCA, TEXT, VIT, tiny_bert, tiny_images, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.caption_steps import look, step
from vlp.towers.encoder import TowerEncoder
from vlp.towers.generation.caption_writer import CaptionWriter
from vlp.towers.load import load_model
from vlp.towers.writing import Writing

START, END = 49406, 49407


def coca(**settings):
    """A model whose words are likelier than others by much, so that rounding decides nothing."""
    model = tiny_model(**{**COCA, **settings}).eval()
    with torch.no_grad():
        model.decoder.text_projection *= 3.0
    return model


def pixels(count=3):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(8))


def logits_of(model, images, ids):
    """Return the logits of the next word by a whole pass."""
    return model.decoder(model.core.visual(images)[1], model.core.text(ids)[1])[:, -1]


@torch.no_grad()
def test_steps_give_the_logits_of_a_whole_pass():
    model, images = coca(), pixels()
    ids = torch.randint(1, 1000, (6, 5), generator=torch.Generator().manual_seed(9))
    kept = {}

    def keep(keys, values, number):
        if number in kept:
            keys, values = (torch.cat(pair, dim=2) for pair in zip(kept[number], (keys, values), strict=True))
        kept[number] = keys, values
        return keys, values

    seen = look(model.decoder, model.core.visual(images)[1])
    found = [step(model.core.text, model.decoder, ids[:, :2], 0, seen, keep)]
    found += [step(model.core.text, model.decoder, ids[:, k : k + 1], k, seen, keep) for k in range(2, 5)]
    twice = images.repeat_interleave(2, dim=0)  # each image has two rows
    for length, logits in enumerate(found, start=2):
        torch.testing.assert_close(logits, logits_of(model, twice, ids[:, :length]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_greedy_is_the_likeliest_word_each_time():
    model, images = coca(), pixels()
    ids = torch.full((3, 1), START)
    for place in range(6):
        logits = logits_of(model, images, ids)
        logits[:, 0] = -math.inf  # padding is no word
        if place < 3:
            logits[:, END] = -math.inf
        ids = torch.cat([ids, logits.argmax(dim=1, keepdim=True)], dim=1)
    expected = [row[1 : row.index(END)] if END in row else row[1:] for row in ids.tolist()]
    assert CaptionWriter(model, Writing(min_words=2, max_words=6)).ids(images) == expected


def test_more_beams_find_likelier_captions():
    """Without a share of the length, scores are those of whole captions."""
    model, images = coca(), pixels()

    @torch.no_grad()
    def score(rows):
        found = []
        for row, image in zip(rows, images, strict=True):
            ids = torch.tensor([[START, *row, END]])
            image_tokens, states = model.core.visual(image[None])[1], model.core.text(ids)[1]
            lengths = torch.tensor([len(row) + 2]).numpy()
            found.append(-float(model.decoder.losses(image_tokens, states, ids, lengths)))
        return found

    settings = {"min_words": 2, "max_words": 5}
    greedy = score(CaptionWriter(model, Writing(**settings)).ids(images))
    beams = score(CaptionWriter(model, Writing(num_beams=8, length_penalty=0.0, **settings)).ids(images))
    assert sum(beams) >= sum(greedy) - 1e-3


def test_draws_follow_from_the_seed():
    model, images = coca(), pixels()

    def drawn(seed):
        return CaptionWriter(model, Writing(temperature=1.0, top_p=0.9, max_words=6, seed=seed)).ids(images)

    state = torch.get_rng_state()
    assert drawn(1) == drawn(1) != drawn(2)
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
def test_open_clip_generates_the_same_tokens(tmp_path, monkeypatch):
    let_generate(monkeypatch)
    their = _their_folder(tmp_path / "coca")
    theirs = their.generate(pixels(), generation_type="top_k", top_k=1, seq_len=12, min_seq_len=5)
    ours = CaptionWriter(load_model(str(tmp_path / "coca")), Writing(min_words=3, max_words=10)).ids(pixels())
    said = [[id for id in row if id not in (0, END)] for row in theirs.tolist()]
    assert [[START, *row] for row in ours] == [row[:11] for row in said]  # open_clip 4 writes a twelfth


def test_an_encoder_writes_words_for_images_of_any_size_and_mode():
    encoder = TowerEncoder(coca(), batch_size=3)
    captions = encoder.caption_images(tiny_images(), Writing(max_words=4))
    assert len(captions) == len(tiny_images())
    assert all(isinstance(caption, str) and caption for caption in captions)
    assert captions == TowerEncoder(coca(), batch_size=7).caption_images(tiny_images(), Writing(max_words=4))


def test_captions_end_within_the_context():
    (row,) = CaptionWriter(coca(), Writing(max_words=None, min_words=99)).ids(pixels(1))
    assert len(row) == 14  # of 16, between start and end


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"top_p": 0.5}, "temperature"), ({"length_penalty": 2.0}, "num_beams"), ({"min_words": 40}, "set max_words too")],
)
def test_settings_without_effect_are_refused(settings, complaint):
    with pytest.raises(RecipeError, match=complaint):
        Writing(**settings)


def test_a_model_without_decoder_is_refused():
    with pytest.raises(RecipeError, match="no decoder"):
        CaptionWriter(tiny_model(VIT, TEXT), Writing())


def test_a_transformers_tokenizer_gives_start_end_and_words(tmp_path):
    text = {**COCA["text"], "tokenizer": tiny_bert(tmp_path / "bert"), "vocab_size": 13}
    (caption,) = CaptionWriter(coca(text=text), Writing(max_words=4))(pixels(1))
    assert set(caption.split()) <= {"a", "cat", "two", "dogs", "photo", "of", "the", "leash", "&"}
