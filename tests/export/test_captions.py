"""Models that write: open_clip loads what is exported, embeds the same, and generates the same tokens."""

from __future__ import annotations

import importlib
import json

import open_clip
import pytest
import torch

from tests.towers.generation.peer import let_generate
from tests.towers.tiny import COCA, tiny_batch, tiny_model
from vlp.export import export_model
from vlp.ground.types import RecipeError
from vlp.towers.generation.caption_writer import CaptionWriter
from vlp.towers.load import load_model
from vlp.towers.writing import Writing

START, END = 49406, 49407


def exported(folder, model):
    return export_model(model, folder, name="coca", recipe_text="", results=[], data_note="")


def clear(model):
    """Make words likelier than others by much, so that rounding decides nothing."""
    with torch.no_grad():
        model.decoder.text_projection *= 3.0
    return model.eval()


@torch.no_grad()
def test_open_clip_loads_an_export_and_generates_the_same_tokens(tmp_path, monkeypatch):
    model = clear(tiny_model(**COCA))
    report = exported(tmp_path / "coca", model)
    assert report.formats == ("open_clip",) and report.parity["open_clip"]["words"]["max_abs"] < 1e-3
    theirs, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'coca'}")
    assert isinstance(theirs, open_clip.CoCa)
    let_generate(monkeypatch)
    pixels = tiny_batch(model)[0][0]
    rows = theirs.eval().generate(pixels, generation_type="top_k", top_k=1, seq_len=12, min_seq_len=5)
    ours = CaptionWriter(model, Writing(min_words=3, max_words=10)).ids(pixels)
    said = [[id for id in row if id not in (0, START, END)] for row in rows.tolist()]
    assert ours == [row[:10] for row in said]  # open_clip 4 writes an eleventh
    assert CaptionWriter(load_model(str(tmp_path / "coca")), Writing(min_words=3, max_words=10)).ids(pixels) == ours


@torch.no_grad()
@pytest.mark.parametrize("correct", [True, False])
def test_the_card_says_what_open_clip_must_be_told_of_the_mask(tmp_path, correct):
    model = tiny_model(**COCA)
    model.core.text.correct_cls_mask = correct
    exported(tmp_path / "coca", model)
    told = "model.text.correct_cls_mask = True" in (tmp_path / "coca" / "README.md").read_text()
    assert told == correct
    again = load_model(str(tmp_path / "coca"))
    assert again.core.text.correct_cls_mask == correct
    pixels, tokens, lengths = tiny_batch(model)
    model.eval()
    torch.testing.assert_close(again(pixels, tokens, lengths.numpy()).text, model(pixels, tokens, lengths.numpy()).text)


def test_other_words_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("vlp.export.compare"), "WORD_TOLERANCE", 0.0)
    with pytest.raises(RecipeError, match="expects other words"):
        exported(tmp_path / "coca", tiny_model(**COCA))
    assert not (tmp_path / "coca").exists()


def test_a_configuration_is_one_that_open_clip_reads(tmp_path):
    exported(tmp_path / "coca", tiny_model(**COCA))
    config = json.loads((tmp_path / "coca" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["output_tokens"] and config["model_cfg"]["text_cfg"]["output_tokens"]
    assert config["model_cfg"]["multimodal_cfg"]["vocab_size"] == 49_408 and config["correct_cls_mask"]
