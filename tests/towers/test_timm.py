"""timm towers: convolutional and transformer backbones, and settings without effect."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.towers.tiny import tiny_batch, tiny_model
from vlp.ground.types import RecipeError

TIMM = {"type": "timm"}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_a_backbone_embeds_and_learns(name):
    model = tiny_model(image={**TIMM, "name": name}, grad_checkpointing=name != "test_resnet")
    found = model(*tiny_batch(model, ["a cat", "a dog"]))
    assert found.image.shape == (2, 16)
    found.image[:, 0].sum().backward()
    assert [n for n, p in model.core.visual.named_parameters() if p.grad is None] == []


def test_a_convolutional_backbone_takes_any_size():
    assert tiny_model(image={**TIMM, "name": "test_resnet", "image_size": (64, 96)}).image_size == (64, 96)


def test_map_pooling_without_projection_is_siglip():
    model = tiny_model(image={**TIMM, "name": "test_vit", "pool": "map", "proj": "none"}, embed_dim=64)
    assert model(*tiny_batch(model, ["a", "b"])).image.shape == (2, 64)


def test_patch_drop_reaches_the_backbone():
    model = tiny_model(image={**TIMM, "name": "test_vit", "patch_drop": 0.5})
    pixels = tiny_batch(model, ["a"])[0][0]
    assert not torch.equal(model.embed_images(pixels), model.embed_images(pixels))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"name": "resnet5"}, "did you mean 'resnet50'"),
        ({"name": "test_vit", "image_size": 96}, "built for 160"),
        ({"name": "test_convnext", "patch_drop": 0.5}, "patch_drop has no effect"),
        ({"name": "test_vit", "proj": "none"}, "model.embed_dim is 16"),
        ({"name": "test_vit", "proj": "none", "drop": 0.1}, "drop has no effect"),
        ({"name": "test_mambaout"}, "does not fit open_clip's adapter"),
        ({"name": "test_vit", "pool": "nonsense"}, "cannot be built"),
    ],
)
def test_what_cannot_be_is_refused(settings, complaint):
    with pytest.raises(RecipeError, match=complaint):
        tiny_model(image={**TIMM, **settings})


def test_a_folder_gives_weights_and_stays_out_of_the_configuration(tmp_path):
    torch.manual_seed(6)
    trained = timm.create_model("test_vit")
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "test_vit", "num_classes": 1000}')
    model = tiny_model(image={**TIMM, "name": str(tmp_path), "pretrained": True}, moved=False)
    torch.testing.assert_close(model.core.visual.trunk.patch_embed.proj.weight, trained.patch_embed.proj.weight)
    assert model.model_cfg["vision_cfg"]["timm_model_name"] == "test_vit"
    assert not model.model_cfg["vision_cfg"]["timm_model_pretrained"]


def other_names(folder):
    """A timm folder whose weights were saved under names of somebody else's."""
    trained = timm.create_model("test_vit")
    save_file({f"model.{name}": value for name, value in trained.state_dict().items()}, folder / "model.safetensors")
    cfg = {"classifier": "head", "num_classes": 1000, "input_size": [3, 160, 160], "first_conv": "patch_embed.proj"}
    config = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("settings", [{"proj": "linear"}, {"proj": "none", "pool": ""}, {"proj": ""}])
def test_weights_that_do_not_match_are_no_random_tower(tmp_path, settings):
    """timm itself goes on with none of the tensors where the classifier is dropped."""
    other_names(tmp_path)
    image = {**TIMM, "name": str(tmp_path), "pretrained": True, **settings}
    with pytest.raises(RecipeError, match=r"image\.pretrained|cannot be built as set") as found:
        tiny_model(image=image, embed_dim=64)
    assert len(str(found.value)) < 1000
    if settings["proj"] == "none":
        assert "0 of the" in str(found.value)


def test_what_was_read_of_the_backbone_is_counted(tmp_path):
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "test_vit", "num_classes": 1000}')
    model = tiny_model(image={**TIMM, "name": str(tmp_path), "pretrained": True}, moved=False)
    (loaded,) = model.loaded
    assert (loaded.part, loaded.found) == ("visual.", len(model.core.visual.trunk.state_dict()))
    assert loaded.of == loaded.found + 1  # the projection
