"""One row per sample from each block, whatever the tower, and the tower computes as ever."""

import pytest
import torch

from tests.towers.tiny import TEXT, VIT, tiny_images, tiny_model
from vlp.towers.block_outputs import listening, mean_over_places, style_over_places
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


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 4, 4), (2, 4, 4, 3), (2, 3)], ids=str)
def test_the_style_is_the_mean_and_the_deviation_of_every_channel(shape):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows = style_over_places(features)
    assert rows.shape == (2, 2, 3)
    places = {(2, 5, 3): "nlw->nwl", (2, 3, 4, 4): "nwij->nwij", (2, 4, 4, 3): "nijw->nwij", (2, 3): "nw->nw"}[shape]
    for image, channels in zip(rows, torch.einsum(places, features), strict=True):
        for number, channel in enumerate(channels):
            values = channel.reshape(-1).tolist()
            middle = sum(values) / len(values)
            deviation = (sum((value - middle) ** 2 for value in values) / len(values)) ** 0.5
            assert image[:, number].tolist() == pytest.approx([middle, deviation], abs=1e-5)


def test_styled_pixels_are_embeddings_and_the_means_of_layers():
    encoder = TowerEncoder(tiny_model().eval())
    pixels = torch.stack([encoder.plain_pixels(each) for each in tiny_images()])
    rows, styles = encoder.styled_pixels(pixels)
    assert torch.equal(rows, encoder.embed_pixels(pixels)) and not rows.requires_grad
    for style, layer in zip(styles, encoder.layers(pixels), strict=True):
        assert torch.equal(style[:, 0], layer)
