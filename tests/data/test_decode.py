"""Every colour model becomes RGB; sizes are judged before pixels are decoded."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from tests.data.test_faults import png_header
from vlp.data.decode import decode_image
from vlp.data.faults import BadSampleError


def encode(image, format="PNG", **settings):
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def decode(data, max_pixels=10_000):
    return np.asarray(decode_image(data, max_pixels))


def test_png_and_lossless_webp_come_back_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    for settings in ({"format": "PNG"}, {"format": "WEBP", "lossless": True}):
        assert np.array_equal(decode(encode(Image.fromarray(pixels), **settings)), pixels)


def test_transparent_parts_become_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert decode(encode(image)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    palette = image.convert("RGB").convert("P")
    assert decode(encode(palette, transparency=palette.getpixel((0, 0))))[0, 0].tolist() == [255, 255, 255]
    assert decode(encode(Image.new("LA", (1, 1), (0, 128))))[0, 0].tolist() == [127, 127, 127]


def test_sixteen_bits_keep_their_brightness():
    assert decode(encode(Image.fromarray(np.full((2, 2), 32768, np.uint16)))).tolist() == [[[128] * 3] * 2] * 2


def test_gray_one_bit_and_cmyk_become_rgb():
    assert decode(encode(Image.new("L", (1, 1), 77))).tolist() == [[[77, 77, 77]]]
    assert decode(encode(Image.new("1", (1, 1), 1))).tolist() == [[[255, 255, 255]]]
    cmyk = decode(encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"))
    assert np.abs(cmyk[0, 0].astype(int) - [0, 255, 255]).max() <= 6  # JPEG is lossy


def test_animations_show_their_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


def test_formats_with_interpreters_are_not_even_tried():
    for format in ("GIF", "TIFF", "EPS", "BMP"):
        with pytest.raises(BadSampleError, match="cannot identify"):
            decode(encode(Image.new("RGB", (2, 2)), format))


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [101, 9000, 12_000, 40_000])
def test_large_images_are_refused_by_their_header(side):
    start = time.perf_counter()
    with pytest.raises(BadSampleError) as caught:
        decode(png_header(side, side))
    assert caught.value.reason == "oversized_image"
    assert time.perf_counter() - start < 0.2
