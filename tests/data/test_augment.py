"""Each change does what its name says, to the samples that their draws choose, and nothing is random inside."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from vlp.data.pixels.augment import NUM_DRAWS, SLOTS, Augment
from vlp.ground.types import RecipeError

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
EVERYTHING = {
    "affine": 0.8,
    "rotation": 20,
    "scale": (0.7, 1.3),
    "translate": 0.1,
    "shear": 10,
    "color": 0.8,
    "brightness": 0.3,
    "contrast": 0.4,
    "saturation": 0.6,
    "hue": 0.08,
    "gray": 0.15,
    "invert": 0.1,
    "tint": 0.3,
    "blur": 0.3,
    "erase": 0.3,
}
CHANGES = {
    "affine": {"affine": 1.0, "rotation": 30},
    "zoom": {"affine": 1.0, "scale": (0.5, 0.9)},
    "shift": {"affine": 1.0, "translate": 0.3},
    "shear": {"affine": 1.0, "shear": 20, "border": "replicate"},
    "brightness": {"color": 1.0, "brightness": 0.4},
    "contrast": {"color": 1.0, "contrast": 0.4},
    "saturation": {"color": 1.0, "saturation": 0.6},
    "hue": {"color": 1.0, "hue": 0.2},
    "gray": {"gray": 1.0},
    "invert": {"invert": 1.0},
    "tint": {"tint": 1.0},
    "blur": {"blur": 1.0, "blur_sigma": (0.5, 1.5)},
    "erase": {"erase": 1.0},
}


def draw_images(num=6, size=16, views=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (views, num, size, size, 3), dtype=torch.uint8, generator=generator)
    return images, torch.rand(views, num, NUM_DRAWS, generator=generator)


def with_draws(draws, **values):
    draws = draws.clone()
    for name, value in values.items():
        draws[..., SLOTS.index(name)] = value
    return draws


def change(images, draws, **settings):
    """Return changed pixels in [0, 1], not normalised."""
    return Augment((0.0,) * 3, (1.0,) * 3, **settings)(images, draws)


def plain(images):
    return images.permute(0, 1, 4, 2, 3).float() / 255


def test_without_settings_pixels_are_only_normalised():
    images, draws = draw_images(views=2)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    assert torch.equal(Augment(MEAN, STD)(images, draws), (plain(images) - mean) / std)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_changes_and_stays_in_range(name):
    images, draws = draw_images()
    changed = change(images, draws, **CHANGES[name])
    assert (changed - plain(images)).abs().flatten(2).amax(2).min() > 1e-3
    assert changed.min() >= -1e-6 and changed.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", CHANGES)
def test_samples_whose_draw_misses_stay_as_they_are(name):
    probability = next(iter(CHANGES[name]))
    images, draws = draw_images(num=40)
    settings = {**CHANGES[name], probability: 0.5}
    changed = change(images, draws, **settings)
    same = (changed - plain(images)).abs().flatten(2).amax(2)[0] < 1e-5
    assert torch.equal(same, draws[0, :, SLOTS.index(probability)] >= 0.5)


def test_one_sample_alone_equals_the_sample_in_a_batch():
    images, draws = draw_images(num=12, views=2)
    augment = Augment(MEAN, STD, **EVERYTHING)
    whole = augment(images, draws)
    for view in range(2):
        for number in range(12):
            alone = augment(images[view : view + 1, number : number + 1], draws[view : view + 1, number : number + 1])
            torch.testing.assert_close(alone[0, 0], whole[view, number], atol=1e-5, rtol=0)


def test_the_first_view_is_spared_on_request():
    images, draws = draw_images()
    spared, changed = (Augment(MEAN, STD, spare, **EVERYTHING)(images, draws) for spare in (True, False))
    # A picture that does not move is resampled all the same, and rounded.
    torch.testing.assert_close(spared[0], Augment(MEAN, STD)(images, draws)[0], atol=1e-4, rtol=0)
    assert torch.equal(spared[1:], changed[1:]) and (spared[0] - changed[0]).abs().max() > 0.1


def test_nothing_is_random_inside():
    images, draws = draw_images()
    augment = Augment(MEAN, STD, **EVERYTHING)
    state = torch.get_rng_state()
    assert torch.equal(augment(images, draws), augment(images, draws))
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_lie_where_the_strengths_say():
    images = torch.full((1, 2, 4, 4, 3), 100, dtype=torch.uint8)
    draws = with_draws(torch.full((1, 2, NUM_DRAWS), 0.5), color=0.0)
    draws[0, :, SLOTS.index("brightness")] = torch.tensor([0.0, 0.75])
    brighter = change(images, draws, color=1.0, brightness=0.4)
    assert brighter[0, 0].flatten()[0] == pytest.approx(100 / 255 * 0.6, abs=1e-4)
    assert brighter[0, 1].flatten()[0] == pytest.approx(100 / 255 * 1.2, abs=1e-4)


def test_contrast_keeps_the_mean_of_an_image():
    images, draws = draw_images()
    images = images // 4 + 96
    changed = change(images, draws, color=1.0, contrast=0.3)
    torch.testing.assert_close(changed.mean((2, 3, 4)), plain(images).mean((2, 3, 4)), atol=1e-4, rtol=0)
    spread = changed.std((2, 3, 4)) / plain(images).std((2, 3, 4))
    torch.testing.assert_close(spread, 1 + 0.3 * (2 * draws[..., SLOTS.index("contrast")] - 1), atol=1e-3, rtol=0)


def test_gray_images_have_three_equal_channels_of_the_old_brightness():
    images, draws = draw_images()
    gray = change(images, draws, gray=1.0)
    luma = (plain(images) * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(2)
    for channel in range(3):
        torch.testing.assert_close(gray[:, :, channel], luma, atol=1e-3, rtol=0)


def test_hue_and_saturation_leave_gray_images_alone():
    images, draws = draw_images()
    images = images[..., :1].expand(-1, -1, -1, -1, 3)
    changed = change(images, draws, color=1.0, hue=0.5, saturation=0.9)
    torch.testing.assert_close(changed, plain(images), atol=1e-3, rtol=0)


def test_invert_twice_is_the_image():
    images, draws = draw_images()
    torch.testing.assert_close(1 - change(images, draws, invert=1.0), plain(images), atol=1e-6, rtol=0)


def test_a_tint_takes_a_share_of_each_channel():
    images, draws = draw_images()
    draws = with_draws(draws, tint_red=0.0, tint_green=0.5, tint_blue=1.0)
    shares = torch.tensor([1.0, 0.8, 0.6])[:, None, None]
    torch.testing.assert_close(change(images, draws, tint=1.0, tint_strength=0.4), plain(images) * shares)


def test_a_quarter_turn_rotates():
    images, draws = draw_images()
    turned = change(images, with_draws(draws, rotation=1.0), affine=1.0, rotation=90)
    torch.testing.assert_close(turned, plain(images).rot90(1, (3, 4)), atol=1e-4, rtol=0)


def test_a_shift_brings_in_white_or_the_edge():
    images, draws = draw_images()
    draws = with_draws(draws, shift_x=1.0, shift_y=0.5)
    shifted = change(images, draws, affine=1.0, translate=0.25)
    torch.testing.assert_close(shifted[..., :12], plain(images)[..., 4:], atol=1e-4, rtol=0)
    torch.testing.assert_close(shifted[..., 12:], torch.ones_like(shifted[..., 12:]), atol=1e-4, rtol=0)
    edge = change(images, draws, affine=1.0, translate=0.25, border="replicate")
    torch.testing.assert_close(edge[..., 13:], plain(images)[..., -1:].expand(-1, -1, -1, -1, 3), atol=1e-4, rtol=0)


def test_a_zoom_of_two_shows_the_middle():
    images = torch.zeros(1, 1, 16, 16, 3, dtype=torch.uint8)
    images[:, :, 4:12, 4:12] = 255
    draws = with_draws(torch.full((1, 1, NUM_DRAWS), 0.5), affine=0.0, scale=1.0)
    zoomed = change(images, draws, affine=1.0, scale=(1.0, 2.0))
    assert zoomed.mean() > 0.9


def test_blur_keeps_flat_images_and_equals_torchvision():
    images, draws = draw_images(num=1)
    blurred = change(images, with_draws(draws, sigma=0.5), blur=1.0, blur_sigma=(0.5, 1.5))
    padded = torch.nn.functional.pad(plain(images)[0], (5,) * 4, mode="replicate")
    expected = gaussian_blur(padded, [11, 11], [1.0, 1.0])
    torch.testing.assert_close(blurred[0], expected[..., 5:-5, 5:-5], atol=1e-5, rtol=0)
    flat = torch.full((1, 2, 8, 8, 3), 200, dtype=torch.uint8)
    torch.testing.assert_close(change(flat, draws[:, [0, 0]], blur=1.0), plain(flat))


def test_erasing_covers_one_rectangle_of_the_drawn_size_with_one_color():
    images, draws = draw_images(num=1)
    draws = with_draws(draws, erase_width=1.0, erase_height=1.0, erase_x=0.5, erase_y=0.5, erase_red=0.25)
    covered = change(images, draws, erase=1.0, erase_size=(0.1, 0.5))
    different = (covered != plain(images)).any(2)[0, 0]
    assert different.sum() == 64 and different[4:12, 4:12].all()
    assert covered[0, 0, 0, 4:12, 4:12].unique().tolist() == [0.25]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu():
    images, draws = draw_images(num=32, size=64)
    augment = Augment(MEAN, STD, **EVERYTHING)
    expected = augment(images, draws)
    found = augment.cuda()(images.cuda(), draws.cuda()).cpu()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)  # interpolation weights differ in the last bits


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blur": 2.0}, "blur: 2.0 is no probability"),
        ({"affine": 0.5}, "affine=0.5 has no effect"),
        ({"brightness": 0.5}, "color=0 has no effect"),
        ({"erase_size": (0.5, 0.1)}, "erase_size"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        Augment(MEAN, STD, **settings)
