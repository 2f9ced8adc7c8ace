"""TowerEncoder: open_clip's own preprocessing and embeddings, and no trace left in the model."""

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2

from tests.towers.tiny import CAPTIONS, tiny_images, tiny_model
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
