"""A tower cannot know what hidden patches show."""

from __future__ import annotations

import pytest
import torch

from tests.towers.tiny import VIT, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.hidden_patches import HiddenPatches

TIMM = {"type": "timm", "name": "test_vit", "image_size": 160}
NO_PATCHES = {"type": "timm", "name": "resnet10t", "image_size": 64}


@pytest.mark.parametrize("image", [VIT, TIMM])
def test_what_is_hidden_changes_nothing_and_the_token_does(image):
    visual = tiny_model(image).eval().core.visual
    hidden = HiddenPatches(visual)
    side, patch = visual.image_size[0], 8 if image is VIT else 16
    per_row = side // patch
    first = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    other = first.clone()
    other[0, :, :patch, patch : 2 * patch] = 3.0  # the second patch of the first row
    places = torch.zeros(2, per_row**2, dtype=torch.bool)
    places[0, 1] = True
    width = visual.conv1.out_channels if image is VIT else visual.trunk.embed_dim
    token = torch.randn(width, requires_grad=True)

    def seen(images, **shown):
        if not shown:
            return visual(images)
        with hidden.behind(**shown):
            return visual(images)

    assert not torch.allclose(seen(first), seen(other))
    of_first, of_other = (seen(images, token=token, places=places) for images in (first, other))
    torch.testing.assert_close(of_first, of_other)
    assert torch.equal(of_first[1], seen(first)[1]) and not torch.allclose(of_first[0], seen(first)[0])
    of_first.square().sum().backward()
    assert token.grad.abs().sum() > 0


def test_a_tower_without_patches_is_refused():
    with pytest.raises(RecipeError, match=r"a ResNet has no patches that a token could stand in for"):
        HiddenPatches(tiny_model(NO_PATCHES).core.visual)
