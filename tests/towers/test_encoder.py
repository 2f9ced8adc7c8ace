"""TowerEncoder: open_clip's own preprocessing and embeddings, and no trace left in the model."""

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2

from tests.towers.tiny import CAPTIONS, VIT, tiny_images, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder


def test_embeddings_are_those_of_open_clip():
    model = tiny_model().eval()
    encoder = TowerEncoder(model, batch_size=2)
    pixels = torch.stack([image_transform_v2(PreprocessCfg(size=32), is_train=False)(i) for i in tiny_images()])
    with torch.no_grad():
        image = F.normalize(model.core.visual(pixels), dim=-1)
        text = F.normalize(model.core.text(open_clip.get_tokenizer("ViT-B-32")(CAPTIONS)), dim=-1)
    torch.testing.assert_close(encoder.embed_images(tiny_images()), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.embed_texts(CAPTIONS), text, atol=1e-5, rtol=0)


def test_training_mode_is_restored():
    model = tiny_model(image={"type": "timm", "name": "test_resnet", "image_size": 64}).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    TowerEncoder(model).embed_images(tiny_images())
    assert model.training
    assert model.core.visual.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_nothing_gives_nothing():
    encoder = TowerEncoder(tiny_model())
    assert encoder.embed_images([]).shape == encoder.embed_texts([]).shape == (0, 16)


def test_autocast_output_is_float32():
    found = TowerEncoder(tiny_model(), autocast=torch.bfloat16).embed_texts(CAPTIONS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(CAPTIONS)))


def test_images_may_be_a_generator():
    encoder = TowerEncoder(tiny_model(), batch_size=3)
    assert torch.equal(encoder.embed_images(i for i in tiny_images()), encoder.embed_images(tiny_images()))
    assert encoder.scale > 14


@pytest.mark.parametrize(
    ("image", "width"),
    [
        ({}, 32),
        ({"type": "timm", "name": "test_vit", "image_size": 160}, 64),
        ({"type": "timm", "name": "test_vit", "image_size": 160, "proj": "mlp"}, 64),
        ({"type": "timm", "name": "test_vit", "image_size": 160, "proj": ""}, 64),
    ],
)
def test_features_before_the_projection_become_the_embeddings(image, width):
    """What is returned, taken through the tower's own projection, is what the tower gives."""
    model = tiny_model(image=image or VIT).eval()
    encoder = TowerEncoder(model, batch_size=2)
    found = encoder.image_features(tiny_images())
    assert found.shape == (len(tiny_images()), width)
    visual = model.core.visual
    project = {0: lambda rows: rows @ visual.proj} if not image else {"mlp": visual.head, "": visual.trunk.head}
    again = project.get(image.get("proj", 0), getattr(visual, "head", None))
    with torch.no_grad():
        embeddings = F.normalize(again(found), dim=-1)
    torch.testing.assert_close(embeddings, encoder.embed_images(tiny_images()), atol=1e-5, rtol=0)


def test_listening_leaves_no_trace():
    model = tiny_model().eval()
    encoder = TowerEncoder(model)
    before = encoder.embed_images(tiny_images())
    encoder.image_features(tiny_images())
    assert "_pool" not in vars(model.core.visual)
    assert torch.equal(encoder.embed_images(tiny_images()), before)


@pytest.mark.parametrize("proj", ["none"])
def test_a_tower_without_a_projection_has_nothing_behind_it(proj):
    model = tiny_model(image={"type": "timm", "name": "test_vit", "image_size": 160, "proj": proj}, embed_dim=64)
    with pytest.raises(RecipeError, match="no projection of images to look behind; use features: projected"):
        TowerEncoder(model).image_features(tiny_images())
