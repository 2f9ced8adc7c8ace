"""open_clip towers: by name, by file, and what they refuse."""

import json

import open_clip
import pytest
import torch

from tests.towers.tiny import TEXT, VIT, tiny_batch, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.base import image_towers, text_towers
from vlp.towers.build import build_core, join


@pytest.mark.parametrize("name", ["RN50-quickgelu", "ViT-S-32-alt"])
def test_a_name_builds_what_open_clip_builds(name):
    image = image_towers.build("open_clip", {"name": name}).fragment()
    text = text_towers.build("open_clip", {"name": name}).fragment()
    with torch.device("meta"):
        ours = build_core(image, text, join(image, text, None, None), 1 / 0.07)[0].state_dict()
        theirs = open_clip.create_model(name, device="meta", force_custom_text=True).state_dict()
    assert {key: value.shape for key, value in ours.items() if key != "logit_scale"} == {
        key: value.shape for key, value in theirs.items() if key != "logit_scale"
    }


def test_a_json_configuration_builds_the_same_model(tmp_path):
    spelled_out = tiny_model()
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(spelled_out.model_cfg))
    source = {"type": "open_clip", "name": str(path)}
    model = tiny_model(image=source, text=source, embed_dim=None)
    model.load_state_dict(spelled_out.state_dict())
    batch = tiny_batch(model)
    torch.testing.assert_close(model(*batch).image, spelled_out(*batch).image)
    torch.testing.assert_close(model(*batch).text, spelled_out(*batch).text)


def test_image_and_text_may_come_from_different_sources():
    model = tiny_model(text={"type": "open_clip", "name": "ViT-S-32-alt", "context_length": 20})
    assert model.tokenizer(["word " * 99])[0].shape == (1, 20)


def test_patch_dropout_drops_patches_in_training_only():
    model = tiny_model(image={**VIT, "patch_dropout": 0.5})
    pixels = tiny_batch(model)[0][0]
    assert not torch.equal(model.embed_images(pixels), model.embed_images(pixels))
    model.eval()
    torch.testing.assert_close(model.embed_images(pixels), model.embed_images(pixels))
    torch.testing.assert_close(model.embed_images(pixels), tiny_model().eval().embed_images(pixels))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"name": "ViT-B-33"}, "did you mean 'ViT-B-32'"),
        ({"name": "RN50", "patch_dropout": 0.5}, "convolutional"),
        ({"name": "nowhere.json"}, "no open_clip configuration"),
        ({"name": "ViT-B-16-SigLIP", "image_size": 256}, "timm"),
    ],
)
def test_what_cannot_be_is_refused(settings, complaint):
    with pytest.raises(RecipeError, match=complaint):
        image_towers.build("open_clip", settings).fragment()


def test_a_causal_tower_does_not_pool_where_it_sees_nothing():
    with pytest.raises(RecipeError, match="causal"):
        tiny_model(text={**TEXT, "pool": "first"})


def test_a_siglip_model_builds_offline_but_asks_for_its_tokenizer(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = {"name": "ViT-B-16-SigLIP"}
    image = image_towers.build("open_clip", source).fragment()
    text = text_towers.build("open_clip", source).fragment()
    model_cfg = join(image, text, None, None)
    assert model_cfg["init_logit_bias"] == -10
    assert model_cfg["text_cfg"]["pool_type"] == "last"
