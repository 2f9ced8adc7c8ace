"""One row per sample from each block, whatever the tower, and the tower computes as ever."""

import pytest
import torch

from tests.towers.tiny import TEXT, VIT, tiny_images, tiny_model
from vlp.towers.block_outputs import listening, mean_over_places
from vlp.towers.encoder import TowerEncoder


@pytest.mark.parametrize(
    "image", [VIT, {"type": "timm", "name": "test_resnet", "image_size": 64}], ids=["vit", "resnet"]
)
def test_every_block_is_heard(image):
    encoder = TowerEncoder(tiny_model(image, TEXT).eval())
    pixels = torch.stack([encoder.plain_pixels(each) for each in tiny_images()])
    layers = encoder.layers(pixels)
    assert len(layers) >= 2
    assert all(rows.shape[0] == len(pixels) and rows.ndim == 2 for rows in layers)
    before = encoder.embed_pixels(pixels)
    with listening(encoder.model.core.visual) as found:
        assert torch.equal(encoder.embed_pixels(pixels), before)
    assert torch.equal(found[-1], layers[-1])
    assert not any(module._forward_hooks for module in encoder.model.modules())


def test_places_are_averaged_wherever_they_stand():
    tokens = torch.randn(2, 5, 3)
    assert torch.equal(mean_over_places(tokens), tokens.mean(dim=1))
    maps = torch.randn(2, 7, 4, 4)
    assert torch.equal(mean_over_places(maps), maps.mean(dim=(2, 3)))
    assert torch.equal(mean_over_places(maps.permute(0, 2, 3, 1)), maps.permute(0, 2, 3, 1).mean(dim=(1, 2)))
