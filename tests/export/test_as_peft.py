"""Adapters of a run are what peft makes of them."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
import transformers
from torch.nn.functional import normalize

from tests.export.test_siglip import IMAGE
from tests.export.test_siglip import SETTINGS as SIGLIP
from tests.towers.test_borrowed import clip_folder
from tests.towers.tiny import SIGLIP_TEXT, tiny_batch, tiny_bert, tiny_export, tiny_model
from vlp.export.as_peft import export_adapters, names_in_transformers
from vlp.export.as_siglip import convert_siglip
from vlp.export.checksums import changed_files
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe
from vlp.run.subject import find_subject
from vlp.towers.low_rank import ADAPTER, merged
from vlp.towers.peft_folders import WRAPPER, A, B
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


@pytest.mark.parametrize("tune", ["lora", "{type: lora, rank: {image: 8, text: 3}, alpha: {image: 16, text: 12}}"])
def test_peft_and_vlp_read_the_adapters_of_a_run(tmp_path, tune):
    place, run = tuned(tmp_path, f"model.tune={tune}")
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


def test_adapters_of_a_model_of_transformers_have_its_names(tmp_path):
    from peft import PeftModel

    place = tmp_path / "clip"
    clip_folder(place)
    tune = "model.tune={type: lora, rank: {image: 2, text: 3}, alpha: 5}"
    settings = (*SETTINGS, f"model.weights={place}", tune, "name=tuned", f"runs={tmp_path}")
    folder = export_adapters(train(load_recipe("base", settings)), tmp_path / "adapters")
    ours = find_subject(str(tmp_path / "tuned")).model
    assert "AutoModel.from_pretrained" in (folder / "README.md").read_text()
    plain = transformers.AutoModel.from_pretrained(place).eval()
    pixels, tokens, lengths = tiny_batch(ours)
    with torch.no_grad():
        start = seen_by(plain, pixels[0])
        theirs = PeftModel.from_pretrained(plain, folder).eval().base_model.model
        images = ours.embed_images(pixels[0])
        assert (images - start).abs().max() > 1e-4
        torch.testing.assert_close(seen_by(theirs, pixels[0]), images, atol=2e-6, rtol=0)
        read = theirs.get_text_features(input_ids=torch.as_tensor(tokens[0]))
        read = normalize(getattr(read, "pooler_output", read), dim=-1)
        torch.testing.assert_close(read, ours.embed_tokens(tokens[0], np.asarray(lengths[0])), atol=2e-6, rtol=0)
        torch.testing.assert_close(theirs.logit_scale.reshape(1), ours.core.logit_scale)
        again = find_subject(str(folder)).model
        torch.testing.assert_close(again.embed_images(pixels[0]), images, atol=2e-6, rtol=0)


def seen_by(model, pixels):
    found = model.get_image_features(pixel_values=pixels)
    return normalize(getattr(found, "pooler_output", found), dim=-1)


@torch.no_grad()
def test_adapters_of_a_siglip_have_its_names(tmp_path):
    text = {**SIGLIP_TEXT, "tokenizer": tiny_bert(tmp_path)}
    state = tiny_model(image=IMAGE, text=text, tune="lora", **SIGLIP).core.state_dict()
    whole = convert_siglip(merged(state))
    start = convert_siglip({name: value for name, value in state.items() if ADAPTER not in name.split(".")})
    found = {name.removeprefix(WRAPPER): value for name, value in names_in_transformers(state).items()}
    layers = {name.removesuffix(A) for name in found if name.endswith(A)}
    assert len(layers) == 2 * (3 + 1 + 2) + 2 * (3 + 2)  # the last projection of open_clip's own attention has none
    assert {name for name in whole if not torch.equal(whole[name], start[name])} == {
        f"{name}.weight" for name in layers
    }
    for layer in layers:
        expected = start[f"{layer}.weight"] + 2 * found[f"{layer}{B}"] @ found[f"{layer}{A}"]
        torch.testing.assert_close(whole[f"{layer}.weight"], expected, atol=1e-6, rtol=0)
    assert found["logit_scale"].shape == whole["logit_scale"].shape == found["logit_bias"].shape


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
