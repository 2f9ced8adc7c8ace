"""Adapters of a run are what peft makes of them."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from tests.towers.tiny import tiny_batch, tiny_export
from vlp.export.as_peft import export_adapters
from vlp.export.checksums import changed_files
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe
from vlp.run.subject import find_subject
from vlp.train import train

SETTINGS = (
    "data.train=embedded",
    "data.workers=0",
    "train={steps: 2, batch_size: 8, threads: 1, precision: float32}",
    "optimizer.learning_rate=0.03",
    "schedule={shape: constant, warmup_steps: 0}",
)


def tuned(folder, *overrides):
    place = tiny_export(folder / "base")
    settings = (*SETTINGS, f"model.weights={place}", "name=tuned", f"runs={folder}", *overrides)
    return place, train(load_recipe("base", settings))


def test_peft_and_vlp_read_the_adapters_of_a_run(tmp_path):
    place, run = tuned(tmp_path, "model.tune=lora")
    folder = export_adapters(run, tmp_path / "adapters")
    assert not changed_files(folder)
    assert f"base_model: {place}" in (folder / "README.md").read_text()
    with torch.no_grad():
        _check_against_peft(place, run, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16)


def _check_against_peft(place, run, folder):
    from peft import PeftModel  # which imports all models of transformers

    ours = find_subject(str(run)).model
    pixels, tokens, lengths = tiny_batch(ours)
    images, texts = ours.embed_images(pixels[0]), ours.embed_tokens(tokens[0], np.asarray(lengths[0]))
    base = open_clip.create_model_and_transforms(f"local-dir:{place}")[0]
    plain = normalize(base.visual(pixels[0]), dim=-1)
    assert (plain - images).abs().max() > 1e-3
    again = find_subject(str(folder)).model.embed_images(pixels[0])
    torch.testing.assert_close(again, images, atol=2e-6, rtol=0)
    if not isinstance(base.visual.transformer.resblocks[0].attn, torch.nn.MultiheadAttention):  # open_clip 4
        with pytest.raises(ValueError, match="not supported"):
            PeftModel.from_pretrained(base, folder)
        return
    theirs = PeftModel.from_pretrained(base, folder).eval().base_model.model
    whole = torch.nn.functional.pad(tokens[0], (0, 77 - tokens.shape[2]))
    for found, expected in (
        (normalize(theirs.visual(pixels[0]), dim=-1), images),
        (normalize(theirs.text(whole), dim=-1), texts),
        (theirs.logit_scale, ours.core.logit_scale[0]),
    ):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.tune=heads",), r"holds no adapters alone, it was tuned otherwise \(tune: heads\)"),
        (("model.tune={type: lora, heads: true}",), "it was tuned heads too"),
    ],
)
def test_a_run_without_adapters_is_exported_whole(tmp_path, overrides, words):
    _, run = tuned(tmp_path, *overrides)
    with pytest.raises(RecipeError, match=words):
        export_adapters(run, tmp_path / "adapters")


def test_what_others_cannot_start_from_is_said(tmp_path):
    place, run = tuned(tmp_path)
    again = (*SETTINGS, f"model.weights={run}", "model.tune=lora", "name=again", f"runs={tmp_path}")
    run = train(load_recipe("base", again))
    with pytest.raises(RecipeError, match="which nobody else has: export that"):
        export_adapters(run, tmp_path / "adapters")
    with pytest.raises(RecipeError, match="exists already"):
        export_adapters(run, place)
