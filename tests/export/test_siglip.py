"""A SigLIP model becomes SiglipModel; what it has no place for is named."""

import json

import pytest
import timm
import torch
import transformers
from timm.models import generate_default_cfgs, register_model

from tests.towers.tiny import CAPTIONS, SIGLIP_TEXT, tiny_bert, tiny_images, tiny_model
from vlp.export import export_model
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_model

WORDS = {"name": "tiny", "recipe_text": "name: tiny", "results": [], "data_note": "none"}
IMAGE = {"type": "timm", "name": "tiny_siglip_for_tests", "pool": "map", "proj": "none"}
SETTINGS = {"embed_dim": 32, "init_bias": -10.0, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

default_cfgs = generate_default_cfgs(
    {"tiny_siglip_for_tests.untrained": {"input_size": (3, 32, 32), "fixed_input_size": True}}
)
__all__: list[str] = []


@register_model
def tiny_siglip_for_tests(pretrained=False, **kwargs):
    assert not pretrained
    kwargs.pop("pretrained_cfg", None)
    kwargs.pop("pretrained_cfg_overlay", None)
    kwargs.pop("cache_dir", None)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "class_token": False}
    return timm.models.VisionTransformer(**{**settings, "global_pool": "map", **kwargs})


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("words"))


def siglip(words, **text):
    return tiny_model(image=IMAGE, text={**SIGLIP_TEXT, "tokenizer": words, **text}, **SETTINGS)


@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
def test_every_library_agrees(tmp_path, words, resize_mode):
    model = tiny_model(image=IMAGE, text={**SIGLIP_TEXT, "tokenizer": words}, resize_mode=resize_mode, **SETTINGS)
    report = export_model(model, tmp_path / "export", **WORDS)
    assert report.formats == ("open_clip", "transformers")
    assert report.parity["transformers"]["class"] == "SiglipModel"
    for library in ("open_clip", "vlp", "transformers"):
        for modality in ("image", "text"):
            assert report.parity[library][modality]["max_abs"] < 1e-5
    assert 'padding="max_length"' in (report.folder / "README.md").read_text()


def test_the_bias_is_in_the_logits(tmp_path, words):
    model = siglip(words)
    folder = export_model(model, tmp_path / "export", **WORDS).folder
    twin = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil")
    picture = tiny_images()[0]
    inputs = processor(text=CAPTIONS, images=picture, padding="max_length", truncation=True, return_tensors="pt")
    assert "attention_mask" not in inputs
    with torch.no_grad():
        logits = twin(**inputs).logits_per_image
    ours = TowerEncoder(load_model(str(folder)))
    expected = ours.scale * ours.embed_images([picture]) @ ours.embed_texts(CAPTIONS).T - 10.0
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "siglip"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image": {**IMAGE, "name": "test_vit2"}, "embed_dim": 64}, "reg_token"),
        ({"text": SIGLIP_TEXT}, "'!'"),
    ],
)
def test_what_has_no_place_is_named(tmp_path, words, settings, reason):
    model = tiny_model(**{"image": IMAGE, "text": {**SIGLIP_TEXT, "tokenizer": words}, **SETTINGS, **settings})
    report = export_model(model, tmp_path / "export", **WORDS)
    assert report.formats == ("open_clip",)
    assert reason in report.left_out["transformers"]
