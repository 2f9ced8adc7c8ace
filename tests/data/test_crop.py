"""Boxes stay inside, keep to their ranges, and whole images pass untouched."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vlp.data.crop import Crop
from vlp.data.randomness import Draws
from vlp.types import RecipeError

GRADIENT = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))


@pytest.mark.parametrize(("width", "height"), [(100, 80), (1, 1), (1000, 3), (3, 1000)])
def test_boxes_stay_inside_the_image(width, height):
    crop = Crop(8, scale=(0.1, 1.0))
    for number in range(200):
        left, top, right, bottom = crop.box(width, height, Draws(number))
        assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_areas_and_ratios_keep_to_their_ranges():
    crop = Crop(8, scale=(0.25, 0.5), ratio=(0.8, 1.25))
    boxes = np.array([crop.box(1000, 1000, Draws(number)) for number in range(500)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, ratios = widths * heights / 1e6, widths / heights
    assert areas.min() == pytest.approx(0.25, abs=0.01) and areas.max() == pytest.approx(0.5, abs=0.01)
    assert ratios.min() == pytest.approx(0.8, abs=0.02) and ratios.max() == pytest.approx(1.25, abs=0.02)


def test_the_whole_image_at_its_size_is_untouched():
    crop = Crop(16, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    assert np.array_equal(crop(GRADIENT, Draws(0)), np.asarray(GRADIENT))


def test_flips_mirror_as_often_as_asked():
    always, half = (Crop(16, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=flip) for flip in (1.0, 0.5))
    mirrored = np.asarray(GRADIENT)[:, ::-1]
    assert np.array_equal(always(GRADIENT, Draws(0)), mirrored)
    assert sum(np.array_equal(half(GRADIENT, Draws(number)), mirrored) for number in range(400)) == pytest.approx(
        200, abs=50
    )


def test_a_box_is_resized_as_the_cut_image_would_be():
    crop = Crop(8, flip=0.0)
    box = crop.box(16, 16, Draws(3))
    expected = GRADIENT.crop(box).resize((8, 8), Image.Resampling.BICUBIC)
    # At its edge a box takes up pixels that a cut image no longer has.
    assert np.array_equal(crop(GRADIENT, Draws(3))[2:-2, 2:-2], np.asarray(expected)[2:-2, 2:-2])


@pytest.mark.parametrize("settings", [{"scale": (0.0, 1.0)}, {"scale": (0.9, 0.5)}, {"ratio": (2, 1)}, {"flip": 1.5}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(RecipeError, match=f"data.crop.{next(iter(settings))}"):
        Crop(8, **settings)
