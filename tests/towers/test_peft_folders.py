"""Adapters that peft has saved, on models of open_clip and of transformers, make the models that peft runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import normalize

from tests.towers.tiny import tiny_batch, tiny_export, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.load import load_model
from vlp.towers.peft_folders import adapter_folder

VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128} | {
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128} | {
    "vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407,
}  # fmt: skip


def adapted(base, folder, place, **settings):
    """Save a model of peft with adapters that do something, and return it."""
    from peft import LoraConfig, get_peft_model  # which imports all models of transformers

    torch.manual_seed(7)
    model = get_peft_model(base, LoraConfig(**settings)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(place)}))
    return model


@torch.no_grad()
def embed(image_tower, text_tower):
    pixels, tokens, _ = tiny_batch(tiny_model())
    tokens = torch.nn.functional.pad(tokens[0], (0, 77 - tokens.shape[2]))
    return torch.cat([normalize(image_tower(pixels[0]), dim=-1), normalize(text_tower(tokens), dim=-1)])


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["attn", "c_fc", "c_proj"], "r": 3, "lora_alpha": 5},
        {"target_modules": ["c_fc"], "r": 3, "use_rslora": True, "modules_to_save": ["ln_post"]},
        {"target_modules": ["c_fc", "c_proj"], "rank_pattern": {"c_fc": 2}, "alpha_pattern": {"c_proj": 9}},
        {"target_modules": ["c_fc"], "r": 3, "alpha_pattern": {r"visual\..*\.mlp\.c_(fc|proj)": 9}},
        {"target_modules": ["c_fc"], "r": 3, "alpha_pattern": {"fc": 9, "resblocks.0": 7}},
        {"target_modules": ["attn"], "r": 3, "alpha_pattern": {"attn": 9}, "rank_pattern": {"attn": 2}},
        {"target_modules": ["c_fc"], "r": 4, "init_lora_weights": "orthogonal"},
    ],
    ids=["attention", "rank-stabilised", "patterns", "expressions", "ends", "within attention", "orthogonal"],
)
def test_adapters_of_open_clip(tmp_path, settings):
    place = tiny_export(tmp_path / "base")
    base = load_model(str(place)).core
    theirs = adapted(base, tmp_path / "adapters", place, **settings)
    expected = embed(theirs.base_model.model.visual, theirs.base_model.model.text)
    found = load_model(str(tmp_path / "adapters"))
    torch.testing.assert_close(embed(found.core.visual, found.core.text), expected, atol=2e-6, rtol=0)
    plain = load_model(str(place)).core
    assert (embed(plain.visual, plain.text) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_adapters_of_transformers(tmp_path):
    torch.manual_seed(8)
    base = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    ).eval()
    base.save_pretrained(tmp_path / "base")
    targets = ["q_proj", "v_proj", "out_proj", "fc1", "visual_projection"]
    theirs = adapted(base, tmp_path / "adapters", tmp_path / "base", target_modules=targets, r=2).base_model.model
    found = load_model(str(tmp_path / "adapters"))
    pixels, tokens, lengths = tiny_batch(found)
    pixels = torch.randn(2, 3, 32, 32)
    seen = theirs.visual_projection(theirs.vision_model(pixels).pooler_output)
    torch.testing.assert_close(found.eval().embed_images(pixels), normalize(seen, dim=-1), atol=2e-6, rtol=0)
    read = theirs.text_projection(theirs.text_model(tokens[0]).pooler_output)
    ours = found.embed_tokens(tokens[0], np.asarray(lengths[0]))
    torch.testing.assert_close(ours, normalize(read, dim=-1), atol=2e-6, rtol=0)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_adapters_that_began_by_a_change_of_the_weights_are_refused(tmp_path, init):
    config = {"peft_type": "LORA", "init_lora_weights": init, "base_model_name_or_path": "some/model"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=f"began by '{init}' belong to other weights .*merge_and_unload"):
        adapter_folder(tmp_path).read()


def test_the_last_projection_of_an_attention_counts_as_often_as_the_peft_that_wrote_it_counts_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2, "peft_version": "0.21.2"}')
    assert adapter_folder(tmp_path).share("attn.base_layer.out_proj") == 2.0
    assert adapter_folder(tmp_path).share("attn") == 1.0
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2}')
    assert adapter_folder(tmp_path).share("attn.base_layer.out_proj") == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "LOHA"}, "only plain LoRA is read, these adapters are LOHA"),
        ({"use_dora": True}, "LORA with use_dora"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is empty; write the name"),
        ({"base_model_name_or_path": "/nowhere/model"}, "there is no run, export or model folder at '/nowhere/model'"),
        ({"target": None}, "belongs to no tensor of"),
    ],
    ids=["another kind", "decomposed", "no base", "base is gone", "another model"],
)
def test_what_cannot_be_read_is_refused(tmp_path, change, words):
    place = tiny_export(tmp_path / "base")
    if "target" in change:
        other = tiny_model({"type": "timm", "name": "test_vit", "image_size": 160}).core
        adapted(other, tmp_path / "adapters", place, target_modules=["qkv"])
    else:
        adapted(load_model(str(place)).core, tmp_path / "adapters", place, target_modules=["c_fc"])
    config = tmp_path / "adapters" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(RecipeError, match=words):
        load_model(str(tmp_path / "adapters"))
