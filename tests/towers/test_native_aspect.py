"""Images at their own aspect ratio: a NaFlexVit of timm on packed patches, and what it has in common with its twin."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.towers.native import NATIVE, PATCH, SIDE, SQUARE, native_model, pictures
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder
from vlp.towers.native_aspect import unpacked
from vlp.towers.native_weights import from_native


def prepared(model, images):
    packed, grids = zip(*map(TowerEncoder(model).transform, images), strict=True)
    return torch.stack(packed), torch.stack(grids)


@pytest.mark.parametrize("name", ["naflexvit_tiny_siglip_for_tests", "naflexvit_tiny_bicubic_for_tests"])
def test_positions_are_those_that_timm_interpolates_image_by_image(name):
    model = native_model({**NATIVE, "name": name})
    images, grids = prepared(model, pictures())
    trunk = model.core.visual.trunk
    given = unpacked(images, grids, PATCH)
    ours, theirs = torch.zeros(len(grids), 16, 32), torch.zeros(len(grids), 16, 32)
    trunk.embeds._apply_learned_naflex_pos_embed(ours, given["patch_coord"])
    super(type(trunk.embeds), trunk.embeds)._apply_learned_naflex_pos_embed(theirs, given["patch_coord"])
    for one, other, is_there in zip(ours, theirs, given["patch_valid"], strict=True):
        torch.testing.assert_close(one[is_there], other[is_there], atol=1e-5, rtol=0)


def test_an_image_embeds_alike_alone_and_in_a_batch_and_whatever_its_padding():
    model = native_model().eval()
    images, grids = prepared(model, pictures())
    with torch.no_grad():
        whole = model.embed_images(images, grids)
        for place, (image, grid) in enumerate(zip(images, grids, strict=True)):
            used = int(grid.prod()) * PATCH
            noisy = torch.cat([image[:, :used], torch.randn(3, image.shape[1] - used, PATCH)], dim=1)
            alone = model.embed_images(image[None, :, :used], grid[None])
            torch.testing.assert_close(alone[0], whole[place], atol=1e-5, rtol=0)
            torch.testing.assert_close(model.embed_images(noisy[None], grid[None])[0], whole[place], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_square_image_embeds_as_in_the_square_tower_of_the_same_weights(tmp_path):
    square, native = native_model(SQUARE).eval(), native_model(moved=False).eval()
    torch.save(square.core.state_dict(), tmp_path / "square.pt")
    from_square = native_model(moved=False, weights=str(tmp_path / "square.pt")).eval()
    assert all(part.found == part.of and not part.note for part in from_square.loaded)
    image = pictures()[-2]
    assert image.size == (64, 64)
    plain = {**square.preprocess_cfg, "interpolation": "bilinear"}
    assert plain["size"] == PATCH * SIDE == native.image_size
    one, other = (TowerEncoder(model).embed_images([image]) for model in (square, from_square))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert set(from_native(from_square.core.state_dict())) == set(square.core.state_dict())


def test_gradients_reach_positions_and_patches_in_bfloat16_too():
    model = native_model()
    images, grids = prepared(model, pictures())
    with torch.autocast("cpu", torch.bfloat16):
        rows = model.embed_images(images, grids)
    rows[:, 0].sum().backward()
    embeds = model.core.visual.trunk.embeds
    assert rows.dtype == torch.float32
    assert embeds.pos_embed.grad.abs().amin() >= 0 and embeds.pos_embed.grad.abs().sum() > 0
    assert embeds.proj.weight.grad.abs().sum() > 0


def test_what_has_no_common_pixels_says_so():
    encoder = TowerEncoder(native_model().eval())
    with pytest.raises(RecipeError, match=r"model.image.max_patches: .* no pixels that an attack or a policy"):
        encoder.plain_pixels(pictures()[0])
    with pytest.raises(ValueError, match="without grids"):
        encoder.model.embed_images(torch.zeros(1, 3, 16 * PATCH, PATCH))
    square = functional.normalize(torch.ones(1, 3, 32, 32))
    assert encoder.model.embed_images(square).shape == (1, 32)


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        ({**SQUARE, "max_patches": 16}, "image.max_patches: only timm's NaFlexVit"),
        ({**NATIVE, "name": "naflexvit_tiny_factorized_for_tests"}, "image.max_patches: this NaFlexVit has no"),
        ({**NATIVE, "patch_drop": 0.5}, "image.patch_drop: would leave out patches and padding alike"),
        ({**NATIVE, "image_size": 64}, "image.image_size: each image has a size of its own"),
        ({**NATIVE, "max_patches": 0}, "image.max_patches: 0 must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(image, complaint):
    with pytest.raises(RecipeError, match=complaint):
        native_model(image)
