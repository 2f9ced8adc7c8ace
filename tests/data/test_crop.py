"""Boxes stay inside and keep to their ranges; pixels are those of Pillow; all views share one decoding."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from vlp.data.pixels.crop import Crop, crop_views
from vlp.data.pixels.decode import JPEG_FACTORS, open_picture
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError

WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}


@dataclass
class Pixels:
    """A picture that is pixels already, and remembers how it was decoded."""

    array: np.ndarray
    factors: tuple[int, ...] = JPEG_FACTORS
    decoded: list[int] = field(default_factory=list)

    @property
    def width(self) -> int:
        return self.array.shape[1]

    @property
    def height(self) -> int:
        return self.array.shape[0]

    def pixels(self, factor: int = 1, *, fast: bool = False) -> np.ndarray:
        self.decoded.append(factor)
        return self.array[::factor, ::factor]


GRADIENT = Pixels(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))


def crop_one(picture, crop, number=0):
    return crop_views(picture, [(crop, Draws(number))])[0][0]


def photograph(name, width, height):
    """Return a JPEG of a real photograph, and the pixels that Pillow finds in it."""
    photo = Image.fromarray(load_sample_images().images[name]).resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=95, subsampling="4:2:0")
    return file.getvalue(), Image.open(file)


def decibels(pixels, expected):
    error = np.square(pixels.astype(float) - expected).mean()
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


def fidelity(crop, width, height):
    """Compare crops with those of Pillow from the same boxes."""
    found = []
    for name in (0, 1):
        data, reference = photograph(name, width, height)
        for number in range(12):
            picture = open_picture(data, width * height)
            cut = crop.draw(picture, Draws(number))
            expected = (
                reference.convert("RGB").crop(cut.box).resize((crop.width, crop.height), Image.Resampling.BICUBIC)
            )
            found.append(decibels(crop_one(picture, crop, number), np.asarray(expected)))
    return found


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


def test_boxes_have_the_shape_of_a_result_that_is_no_square():
    wide = Crop((8, 16), scale=(0.25, 0.5), ratio=(0.8, 1.25))
    boxes = np.array([wide.box(1000, 1000, Draws(number)) for number in range(500)])
    ratios = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    assert ratios.min() == pytest.approx(1.6, abs=0.04) and ratios.max() == pytest.approx(2.5, abs=0.04)
    whole = Crop((8, 16), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert wide.shape == (8, 16, 3) and whole.box(400, 400, Draws(0)) == (0, 100, 400, 300)


def test_a_wide_crop_shows_what_its_box_holds():
    assert min(fidelity(Crop((48, 96), flip=0.0, decoding="exact"), 500, 400)) > 50


def test_a_wide_crop_is_never_enlarged():
    data, _ = photograph(0, 1600, 1200)
    for size in ((60, 240), (240, 60)):
        crop = Crop(size, scale=(0.05, 1.0))
        for number in range(50):
            cut = crop.draw(open_picture(data, 10**7), Draws(number))
            width, height = (cut.box[2] - cut.box[0]) / cut.factor, (cut.box[3] - cut.box[1]) / cut.factor
            assert cut.factor == 1 or (width >= crop.width and height >= crop.height)


def test_ten_boxes_are_drawn_before_the_middle_is_taken():
    """As in torchvision; in a strip no box of these shapes fits, and each try takes an area and a ratio."""
    draws, after_ten = Draws(3), Draws(3)
    assert Crop(8, scale=(0.9, 1.0)).box(1000, 10, draws) == (493, 0, 506, 10)
    for _ in range(20):
        after_ten.uniform()
    assert draws.bits() == after_ten.bits()


def test_a_seed_keeps_its_boxes():
    boxes = [Crop(8).box(6400, 4270, Draws(3, number)) for number in range(3)]
    assert boxes == [(353, 0, 6046, 4270), (150, 371, 4905, 4203), (2121, 201, 6120, 3792)]
    assert Crop(8, scale=(0.9, 1.0)).box(1000, 3, Draws(0)) == (498, 0, 502, 3)  # no box fits


def test_the_whole_image_at_its_size_is_untouched():
    assert np.array_equal(crop_one(GRADIENT, Crop(16, **WHOLE, flip=0.0)), GRADIENT.array)


def test_flips_mirror_as_often_as_asked():
    always, half = (Crop(16, **WHOLE, flip=flip) for flip in (1.0, 0.5))
    mirrored = GRADIENT.array[:, ::-1]
    assert np.array_equal(crop_one(GRADIENT, always), mirrored)
    flips = sum(np.array_equal(crop_one(GRADIENT, half, number), mirrored) for number in range(400))
    assert flips == pytest.approx(200, abs=50)


def test_a_flip_mirrors_the_very_bits():
    data, _ = photograph(0, 320, 240)
    never, always = (crop_one(open_picture(data, 10**6), Crop(64, flip=flip)) for flip in (0.0, 1.0))
    assert np.array_equal(always, never[:, ::-1]) and not np.array_equal(always, never)


@pytest.mark.parametrize(("width", "height"), [(256, 341), (512, 384), (1024, 683)])
def test_exact_crops_have_the_pixels_of_pillow(width, height):
    found = fidelity(Crop(224, scale=(0.5, 1.0), flip=0.0, decoding="exact"), width, height)
    assert np.mean(found) >= 69 and min(found) >= 54


@pytest.mark.parametrize(("width", "height"), [(1024, 683), (1027, 771), (2048, 1365)])
def test_scaled_crops_of_large_photographs_come_close(width, height):
    found = fidelity(Crop(224, scale=(0.5, 1.0), flip=0.0), width, height)
    assert np.mean(found) >= 45 and min(found) >= 36


@pytest.mark.parametrize(("width", "height"), [(8, 8), (31, 33), (64, 48), (257, 511)])
def test_scaled_boxes_lie_on_the_grid_near_the_exact_ones_and_are_never_enlarged(width, height):
    exact, scaled = (Crop(8, scale=(0.05, 1.0), decoding=decoding) for decoding in ("exact", "fast"))
    picture = Pixels(np.zeros((height, width, 3), np.uint8))
    for number in range(200):
        box, cut = exact.draw(picture, Draws(number)).box, scaled.draw(picture, Draws(number))
        assert box == exact.box(width, height, Draws(number))
        assert all(side % cut.factor == 0 for side in cut.box)
        assert max(abs(one - other) for one, other in zip(box, cut.box, strict=True)) <= 1.5 * cut.factor
        assert 0 <= cut.box[0] < cut.box[2] <= width and 0 <= cut.box[1] < cut.box[3] <= height
        assert cut.factor == 1 or min(cut.box[2] - cut.box[0], cut.box[3] - cut.box[1]) >= 8 * cut.factor


def test_views_share_one_decoding_as_large_as_the_most_demanding_one_needs():
    small, large = (Crop(size, **WHOLE, flip=0.0) for size in (8, 32))
    picture = Pixels(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    views, _ = crop_views(picture, [(small, Draws(0)), (large, Draws(1)), (small, Draws(0))])
    assert [view.shape for view in views] == [(8, 8, 3), (32, 32, 3), (8, 8, 3)]
    assert np.array_equal(views[0], views[2])
    crop_views(picture, [(small, Draws(0))])
    crop_views(picture, [(small, Draws(0)), (Crop(8, **WHOLE, decoding="exact"), Draws(0))])
    assert picture.decoded[0] <= 2 and picture.decoded[1] > 1 and picture.decoded[2] == 1


@pytest.mark.parametrize("number", range(6))
def test_a_cut_says_where_in_the_picture_each_pixel_of_its_view_stood(number):
    """A picture whose colours are places: 2 x across and 3 x down."""
    down, across = np.mgrid[0:80, 0:120]
    picture = Pixels(np.stack([2 * across, 3 * down, 0 * down], axis=2).astype(np.uint8), factors=(1,))
    (view,), (cut,) = crop_views(picture, [(Crop(16, scale=(0.2, 0.6)), Draws(number))])
    left, top, right, bottom, mirrored = cut.row
    for row in range(2, 14):
        for column in range(2, 14):
            place = (15 - column if mirrored else column) + 0.5
            expected = (
                2 * (left + (right - left) * place / 16 - 0.5),
                3 * (top + (bottom - top) * (row + 0.5) / 16 - 0.5),
            )
            assert view[row, column, :2].tolist() == pytest.approx(expected, abs=2)


def test_a_view_does_not_move_when_another_needs_more_pixels():
    data, _ = photograph(1, 1027, 771)
    picture = open_picture(data, 10**6)
    alone, demanding = Crop(64, flip=0.0), Crop(700, scale=(1.0, 1.0))
    first = crop_views(picture, [(alone, Draws(5))])[0][0]
    assert decibels(first, crop_views(picture, [(alone, Draws(5)), (demanding, Draws(6))])[0][0]) > 36


def test_crops_are_contiguous_and_leave_the_threads_and_the_seed_of_torch_alone():
    data, _ = photograph(0, 320, 240)
    before = torch.get_num_threads(), torch.get_rng_state()
    for flip in (0.0, 1.0):
        assert crop_one(open_picture(data, 10**6), Crop(64, flip=flip)).flags.c_contiguous
    assert torch.get_num_threads() == before[0] and torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("settings", [{"scale": (0.0, 1.0)}, {"scale": (0.9, 0.5)}, {"ratio": (2, 1)}, {"flip": 1.5}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(RecipeError, match=f"data.crop.{next(iter(settings))}"):
        Crop(8, **settings)


@pytest.mark.parametrize("shape", [(1000, 500), (1000, 999), (333, 1000), (640, 640), (1300, 1001)])
@pytest.mark.parametrize("ratio", [(1.0, 1.0), (0.75, 1.3333), (1.2, 2.5)])
def test_the_whole_area_is_the_same_box_at_every_visit(shape, ratio):
    """In the middle, and as large as the ratios allow."""
    crop = Crop(8, scale=(1.0, 1.0), ratio=ratio, flip=0.0)
    assert crop.is_fixed
    (left, top, right, bottom), *others = {crop.box(*shape, Draws(seed)) for seed in range(200)}
    assert not others
    width, height = right - left, bottom - top
    assert abs(left - (shape[0] - right)) <= 1 and abs(top - (shape[1] - bottom)) <= 1
    assert width == shape[0] or height == shape[1]
    wanted = min(max(shape[0] / shape[1], ratio[0]), ratio[1])
    assert width / height == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize("settings", [{"scale": (0.9, 1.0)}, {"flip": 0.5}, {"scale": (1.0, 1.0), "flip": 0.5}])
def test_what_is_drawn_is_not_fixed(settings):
    assert not Crop(8, **{"flip": 0.0, **settings}).is_fixed
