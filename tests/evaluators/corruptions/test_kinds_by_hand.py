"""Each kind against a slow reading of what the published code does, or against the law it draws from."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
from scipy import ndimage

from tests.evaluators.corruptions.test_corruptions import picture
from vlp.evaluators.corruptions import blur, digital, ice, noise, weather


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def pixels():
    return digital.to_pixels(picture(48))


GREY = np.full((200, 200, 3), 0.5)


def test_eight_bits_survive_the_way_there_and_back():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert (np.asarray(digital.to_image(every / 255)) == every).all()


def test_gaussian_noise_has_the_declared_spread(rng):
    assert noise.gaussian_noise(GREY, 2, rng).std() == pytest.approx(0.12, rel=0.02)


def test_shot_noise_counts_photons(rng):
    found = noise.shot_noise(GREY, 3, rng) * 12
    assert found == pytest.approx(np.round(found), abs=1e-9)
    assert found.mean() == pytest.approx(6, rel=0.02)
    assert found.var() == pytest.approx(6, rel=0.03)


def test_impulse_noise_loses_a_share_of_the_colours_half_of_them_to_white(rng):
    found = noise.impulse_noise(GREY, 4, rng)
    assert (found == 1).mean() == pytest.approx(0.085, abs=0.004)
    assert (found == 0).mean() == pytest.approx(0.085, abs=0.004)
    assert (found == 0.5).mean() == pytest.approx(0.83, abs=0.006)


def test_defocus_is_the_mean_over_a_disk(rng, pixels):
    kernel = blur.disk(3, 0.1)
    inside = [(y, x) for y in range(-8, 9) for x in range(-8, 9) if y * y + x * x <= 9]
    assert kernel.sum() == pytest.approx(1)
    assert np.count_nonzero(kernel > 1e-6) == len(inside) == 29
    found = blur.defocus_blur(pixels, 1, rng)
    for row, column in ((20, 20), (10, 37)):
        mean = np.mean([pixels[row + y, column + x] for y, x in inside], axis=0)
        assert found[row, column] == pytest.approx(mean, abs=1e-6)
    # the image is mirrored at its border, whose pixels stand once
    corner = np.mean([pixels[abs(y), abs(x)] for y, x in inside], axis=0)
    assert found[0, 0] == pytest.approx(corner, abs=1e-6)


def test_a_soft_edge_keeps_the_light_of_a_disk():
    soft = blur.disk(10, 0.5)
    assert soft.shape == (21, 21)
    assert soft[10, 10] == pytest.approx(1 / 317, rel=1e-6)  # 317 points within 10 of the origin
    assert 0.2 < soft[10, 20] * 317 < 0.9


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_glass_copies_pixels_as_the_published_loop_does(reach):
    """That loop means to swap, but `a[i], a[j] = a[j], a[i]` with rows of an array copies one over the other."""
    height, width = 20, 26
    colours = np.arange(height * width * 3).reshape(height, width, 3)
    draws = np.random.default_rng(3).integers(-reach, reach, size=(height - 2 * reach, width - 2 * reach, 2))
    slow = colours.copy()
    for row in range(height - reach, reach, -1):
        for column in range(width - reach, reach, -1):
            down, right = draws[row - reach - 1, column - reach - 1]
            other = (row + down, column + right)
            slow[row, column], slow[other] = slow[other], slow[row, column]
    rows, columns = blur.glass_sources(height, width, reach, np.random.default_rng(3))
    assert (colours[rows, columns] == slow).all()
    assert (slow != colours).any()


@pytest.mark.parametrize("degrees", [0, -45, 30, -100])
def test_motion_smears_along_a_line(degrees, pixels):
    found = blur.smear(pixels, 4, 2.0, degrees)
    weights = [math.exp(-step * step / 8) for step in range(9)]
    for row, column in ((24, 24), (0, 47), (45, 2)):
        total = np.zeros(3)
        for step, weight in enumerate(weights):
            down = math.ceil(step * math.sin(math.radians(degrees)) - 0.5)
            right = math.ceil(step * math.cos(math.radians(degrees)) - 0.5)
            total += weight * pixels[min(max(row + down, 0), 47), min(max(column + right, 0), 47)]
        assert found[row, column] == pytest.approx(total / sum(weights), abs=0.5 / 255 + 1e-9)


@pytest.mark.parametrize("factor", [1.0, 1.07, 1.3, 2.5, 4.5])
def test_enlarging_is_what_scipy_does_to_the_middle(factor, pixels):
    cut = math.ceil(48 / factor)
    start = (48 - cut) // 2
    whole = ndimage.zoom(pixels[start : start + cut, start : start + cut], (factor, factor, 1), order=1)
    first = (len(whole) - 48) // 2
    assert blur.enlarge(pixels, factor) == pytest.approx(whole[first : first + 48, first : first + 48], abs=1e-9)
    assert blur.enlarge(pixels[..., 0], factor) == pytest.approx(blur.enlarge(pixels, factor)[..., 0])


def test_brightness_raises_the_value_of_hsv(rng, pixels):
    pixels[0, 0] = 0
    found = digital.brightness(pixels, 3, rng)
    for row, column in ((0, 0), (5, 30), (40, 11)):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixels[row, column])
        assert found[row, column] == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.3)), abs=1e-9)


def test_contrast_keeps_the_mean_of_each_colour(rng, pixels):
    found = digital.contrast(pixels, 4, rng)
    assert found.mean(axis=(0, 1)) == pytest.approx(pixels.mean(axis=(0, 1)))
    assert found.std(axis=(0, 1)) == pytest.approx(0.1 * pixels.std(axis=(0, 1)))


def test_coarse_pixels_are_means_of_boxes(rng):
    found = digital.pixelate(digital.to_pixels(picture()), 2, rng)
    boxes = digital.to_pixels(picture()).reshape(112, 2, 112, 2, 3).mean(axis=(1, 3))
    assert found == pytest.approx(boxes.repeat(2, axis=0).repeat(2, axis=1), abs=1 / 255)


def test_corners_go_where_they_are_sent(rng):
    """A pixel of one colour at a corner of the middle third is found where that corner was moved to."""
    rows, columns = np.indices((90, 90)).astype(np.float64)
    smooth = np.stack([rows / 90, columns / 90, np.zeros_like(rows)], axis=2)
    moved = digital.move_corners(smooth, 4.0, np.random.default_rng(5))
    shifts = np.random.default_rng(5).uniform(-4, 4, size=(3, 2))
    for corner, shift in zip(((75, 75), (15, 75), (15, 15)), shifts, strict=True):
        place = np.array(corner) + shift
        low = np.floor(place).astype(int)
        share = place - low
        around = [moved[low[0] + y, low[1] + x] for y in (0, 1) for x in (0, 1)]
        weights = [
            (share[0] if y else 1 - share[0]) * (share[1] if x else 1 - share[1]) for y in (0, 1) for x in (0, 1)
        ]
        found = sum(weight * colour for weight, colour in zip(weights, around, strict=True))
        assert found[:2] == pytest.approx(np.array(corner) / 90, abs=1e-6)


def test_nothing_moves_where_no_shift_is_allowed(pixels, rng):
    assert digital.move_corners(pixels, 0.0, rng) == pytest.approx(pixels)


def test_plasma_is_the_diamond_square_of_its_corner():
    """Size 2: one point, its middle, and two edges; the random steps come in that order, and all corners are one."""
    draws = np.random.default_rng(1).uniform(-100, 100, size=3) * 100
    middle = draws[0]
    edges = [(0 + 0 + middle + middle) / 4 + draw for draw in draws[1:]]
    slow = np.array([[0, edges[0]], [edges[1], middle]])
    slow = (slow - slow.min()) / (slow.max() - slow.min())
    assert ice.plasma(2, 2.0, np.random.default_rng(1)) == pytest.approx(slow)


def test_plasma_is_smoother_the_faster_its_steps_shrink():
    rough, smooth = (ice.plasma(128, decay, np.random.default_rng(0)) for decay in (1.4, 3.0))
    assert np.abs(np.diff(smooth)).mean() < 0.5 * np.abs(np.diff(rough)).mean()
    for found in (rough, smooth):
        assert (found.min(), found.max()) == (0, 1)
        assert np.abs(found[0] - found[-1]).mean() < 0.2  # opposite edges fit together


def test_fog_keeps_the_brightest_value_and_hides_the_rest(rng, pixels):
    cloud = weather.cloud(48, 1.4, np.random.default_rng(2))
    found = weather.fog(pixels, 5, np.random.default_rng(2))
    assert found[10, 20] == pytest.approx((pixels[10, 20] + 3 * cloud[10, 20]) * pixels.max() / (pixels.max() + 3))


def test_snow_whitens_and_falls_on_both_halves(rng, pixels):
    found = weather.snow(pixels, 2, rng)
    grey = pixels @ [0.299, 0.587, 0.114]
    floor = 0.7 * pixels + 0.3 * np.maximum(pixels, 1.5 * grey[..., None] + 0.5)
    flakes = found - floor
    assert flakes.min() > -1e-9
    assert flakes == pytest.approx(flakes[::-1, ::-1], abs=1e-9)
    assert 0.01 < flakes.mean() < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_ice_has_the_colour_and_contrast_of_a_photograph(seed):
    found = ice.draw_ice(224, np.random.default_rng(seed))
    colour, spread = ice.PHOTOGRAPHS[np.random.default_rng(seed).integers(5)]
    assert found.mean(axis=(0, 1)) == pytest.approx(np.array(colour), abs=0.02)
    assert found.mean(axis=2).std() == pytest.approx(spread, rel=0.15)


def test_frost_adds_ice_to_the_picture(pixels):
    drawn = ice.draw_ice(48, np.random.default_rng(4))
    assert weather.frost(pixels, 3, np.random.default_rng(4)) == pytest.approx(0.7 * pixels + 0.7 * drawn)
