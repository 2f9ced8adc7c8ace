"""Packed images of a stream: a box at its own aspect ratio, the same whoever decodes, within its batch's budget."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.shards import LetterTokenizer, write_shards
from vlp.data import Captions, Crop, SampleSet, Stream, Views
from vlp.data.order.patch_budgets import PatchBudgets
from vlp.data.pixels.decode import open_picture
from vlp.data.pixels.native_crop import NativeCrop
from vlp.ground.patch_budget import PatchBudget
from vlp.ground.randomness import CROP, Draws

WHOLE = {"scale": (1.0, 1.0), "ratio": (0.02, 50.0)}


def picture(width, height, quality=95):
    """Return a smooth picture as JPEG."""
    down, across = np.mgrid[0:height, 0:width]
    pixels = np.stack([down * 255 / height, across * 255 / width, (down + across) % 97], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return open_picture(file.getvalue())


def unpacked(packed, rows, columns, patch):
    """Return the picture that was packed, patch by patch."""
    image = np.zeros((rows * patch, columns * patch, 3), dtype=np.uint8)
    for place in range(rows * columns):
        top, left = patch * (place // columns), patch * (place % columns)
        image[top : top + patch, left : left + patch] = packed[place * patch : (place + 1) * patch]
    return image


@pytest.mark.parametrize(("width", "height"), [(300, 100), (90, 400), (64, 64), (900, 30)])
def test_the_whole_image_is_what_pillow_makes_of_it(width, height):
    budget = PatchBudget(8, 50)
    shown = picture(width, height)
    for flip in (0.0, 1.0):
        crop = NativeCrop(Crop(1, **WHOLE, flip=flip, interpolation="bilinear", decoding="exact"), budget)
        cut = crop.draw(shown, Draws(0, CROP))
        packed = crop.take(shown.pixels(), cut, 1)
        rows, columns = budget.grid(height, width)
        assert cut.box == (0, 0, width, height) and packed.shape == crop.shape == (400, 8, 3)
        expected = Image.fromarray(shown.pixels()).resize((8 * columns, 8 * rows), Image.Resampling.BILINEAR)
        found = unpacked(packed, rows, columns, 8)
        mirrored = np.asarray(expected)[:, ::-1] if flip else np.asarray(expected)
        assert np.abs(found.astype(int) - mirrored).max() <= 1
        assert not packed[8 * rows * columns :].any()


def test_boxes_are_those_of_the_square_crop_and_large_ones_are_decoded_small():
    square, budget = Crop(64), PatchBudget(16, 16)
    shown = picture(1600, 800)
    crop = NativeCrop(square, budget)
    one, other = (each.draw(shown, Draws(7, CROP)) for each in (square, crop))
    assert abs(np.subtract(one.box, other.box)).max() <= 8
    assert other.factor > 1
    fast, exact = (crop.take(shown.pixels(factor), other, factor) for factor in (other.factor, 1))
    assert np.abs(fast.astype(int) - exact).mean() < 2


def test_budgets_follow_from_the_seed_and_the_number_of_a_batch():
    drawn = [PatchBudgets(3, (4, 9, 16)).of(number) for number in range(300)]
    assert {size: 70 < drawn.count(size) < 130 for size in (4, 9, 16)} == {4: True, 9: True, 16: True}
    assert drawn == [PatchBudgets(3, (4, 9, 16)).of(number) for number in reversed(range(300))][::-1]
    assert drawn != [PatchBudgets(4, (4, 9, 16)).of(number) for number in range(300)]


def test_all_processes_and_workers_see_the_same_packed_images(tmp_path):
    samples = SampleSet({"tiny": write_shards(tmp_path / "tiny", num_shards=3, samples_per_shard=6)})
    views = Views((NativeCrop(Crop(1, **WHOLE), PatchBudget(8, 12)),), Captions())

    def batches(**layout):
        stream = Stream(samples, views, LetterTokenizer(), batch_size=4, seed=0, max_patches=(6, 12), **layout)
        return stream.batches(0)

    alone, helped, halves = batches(), batches(workers=1), [batches(rank=rank, world_size=2) for rank in range(2)]
    heights = set()
    for _ in range(8):
        whole, other, parts = next(alone), next(helped), [next(half) for half in halves]
        for name in ("images", "grids"):
            assert torch.equal(getattr(whole, name), getattr(other, name))
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts], dim=1))
            chunks = [getattr(chunk, name) for chunk in whole.chunk(2)]
            assert torch.equal(getattr(whole, name), torch.cat(chunks, dim=1))
        budget = PatchBudget(8, whole.images.shape[2] // 8)
        heights.add(budget.most)
        for grid, cut in zip(whole.grids[0].tolist(), whole.cuts[0].int().tolist(), strict=True):
            assert tuple(grid) == budget.grid(cut[3] - cut[1], cut[2] - cut[0])
    assert heights == {6, 12}
    helped.close()
