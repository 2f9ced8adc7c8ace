"""What an attack changes is what the tower sees: plain pixels give the embeddings of the image, bit for bit."""

import pytest
import torch

from tests.towers.test_borrowed import chinese_clip, clipseg, siglip2, write
from tests.towers.tiny import tiny_images, tiny_model
from vlp.ground.offers import offers
from vlp.ground.types import PixelEncoder, RecipeError
from vlp.towers.borrowed import BorrowedModel
from vlp.towers.encoder import TowerEncoder
from vlp.towers.prefix_encoder import PrefixEncoder


def check(encoder):
    """Compare both ways to the embeddings, and follow a gradient back."""
    assert offers(encoder, PixelEncoder) and encoder.has_gradients
    pixels = torch.stack([encoder.plain_pixels(image) for image in tiny_images()])
    assert 0 <= pixels.min() <= pixels.max() <= 1
    with torch.inference_mode():
        assert torch.equal(encoder.embed_pixels(pixels), encoder.embed_images(tiny_images()))
    pixels.requires_grad_()
    encoder.embed_pixels(pixels)[:, 0].sum().backward()
    assert (pixels.grad.flatten(1) != 0).any(dim=1).all()


@pytest.mark.parametrize("changes", [{}, {"mean": (0.5, 0.5, 0.5), "resize_mode": "longest"}])
def test_of_a_dual_encoder(changes):
    model = tiny_model(**changes, freeze=("visual",)).train()
    check(TowerEncoder(model, batch_size=len(tiny_images())))
    assert model.training


def test_of_its_first_coordinates():
    check(PrefixEncoder(TowerEncoder(tiny_model()), 5))


@pytest.mark.parametrize("make", [clipseg, chinese_clip], ids=lambda make: make.__name__)
def test_of_a_model_of_transformers(make, tmp_path):
    write(tmp_path, make)
    check(BorrowedModel(tmp_path).encoder("cpu"))


def test_a_model_that_sees_patches_is_refused(tmp_path):
    write(tmp_path, siglip2)
    with pytest.raises(RecipeError, match=r"shown .*pixel_attention_mask"):
        BorrowedModel(tmp_path).encoder("cpu").plain_pixels(tiny_images()[0])
