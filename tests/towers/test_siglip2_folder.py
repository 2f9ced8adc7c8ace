"""Folders of transformers' SigLIP 2 at native aspect, written by transformers itself: the same numbers, or a reason."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.nn import functional
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from tests.towers.native import NATIVE, PATCH, SIDE, WIDTH, moved, native_model, pictures
from tests.towers.test_siglip_folder import LENGTH, TEXT, TEXTS, words
from vlp.ground.types import RecipeError
from vlp.towers.borrowed import BorrowedModel
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_any_model, load_model
from vlp.towers.transformers_folders import read_folder

VISION = {
    "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2,
    "patch_size": PATCH, "num_patches": SIDE**2,
}  # fmt: skip
READS = {**TEXT, "projection_size": WIDTH}


def write(folder, **change):
    config = transformers.Siglip2Config(text_config=READS, vision_config=VISION | change)
    torch.manual_seed(0)
    model = moved(transformers.Siglip2Model(config)).eval()
    model.save_pretrained(folder)
    words().save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=20, do_convert_rgb=True).save_pretrained(folder)
    return model


@torch.no_grad()
def test_a_siglip_2_of_transformers_is_the_same_model(tmp_path):
    model, found = write(tmp_path), load_any_model(str(tmp_path))
    ours, images = TowerEncoder(found), pictures()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    ids = words()(TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt")["input_ids"]
    seen = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
    read = model.text_model(input_ids=ids).pooler_output
    assert (ours.embed_images(images) - functional.normalize(seen, dim=-1)).abs().max() < 1e-5
    assert (ours.embed_texts(TEXTS) - functional.normalize(read, dim=-1)).abs().max() < 1e-6
    assert found.core.logit_scale.item() == model.logit_scale.item()
    assert found.core.logit_bias.item() == model.logit_bias.item()
    assert all(part.found == part.of and not part.note for part in found.loaded)
    assert (found.budget.most, found.preprocess_cfg["interpolation"]) == (20, "bilinear")
    text = {"type": "open_clip", "name": str(tmp_path)}
    fewer = native_model({**NATIVE, "max_patches": 9}, text, weights=str(tmp_path), moved=False)
    processor.max_num_patches = 9
    seen = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
    assert (TowerEncoder(fewer).embed_images(images) - functional.normalize(seen, dim=-1)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_attention_heads": 4}, "no SigLIP tower of timm has the sizes of this one .*heads 4"),
        ({"hidden_act": "gelu"}, "timm's SigLIP 2 towers have gelu_pytorch_tanh and pool by attention, not gelu"),
    ],
)
def test_what_timm_has_not_is_no_starting_point_and_can_be_evaluated(tmp_path, change, reason):
    write(tmp_path, **change)
    with pytest.raises(RecipeError, match=reason):
        load_model(str(tmp_path))
    assert isinstance(load_any_model(str(tmp_path)), BorrowedModel)


def test_patches_and_filter_are_those_of_the_processor_that_transformers_5_writes(tmp_path):
    write(tmp_path)
    images = Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=12)
    (tmp_path / "preprocessor_config.json").unlink()
    assert read_folder(tmp_path)["preprocess_cfg"]["interpolation"] == "bilinear"
    transformers.Siglip2Processor(images, words()).save_pretrained(tmp_path)
    assert read_folder(tmp_path)["max_patches"] == 12
