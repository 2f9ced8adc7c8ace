"""Every colour model becomes RGB; sizes are judged before pixels are decoded; no fault passes for a picture."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.data.test_faults import png_chunk, png_header
from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import MOST_CHUNKS, MOST_SCANS, SCAN, decode_image, open_picture

PHOTO = Image.fromarray(load_sample_images().images[0][:97, :130])


def encode(image, format="PNG", **settings):
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def decode(data, max_pixels=10_000):
    return np.asarray(decode_image(data, max_pixels))


def with_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def reason(data, max_pixels=100_000):
    with pytest.raises(BadSampleError) as caught:
        decode(data, max_pixels)
    return caught.value.reason


def with_chunks(*chunks, before_pixels=True):
    """Add chunks to a small PNG."""
    data = encode(Image.new("RGB", (4, 4)))
    place = data.index(b"IDAT" if before_pixels else b"IEND") - 4
    return data[:place] + b"".join(chunks) + data[place:]


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


@pytest.mark.parametrize("settings", [{"format": "WEBP", "lossless": True}, {"format": "PNG"}])
def test_animations_show_their_first_frame(settings):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encode(frames[0], **settings, save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("mode", "settings"),
    [("RGB", {"subsampling": "4:2:0"}), ("RGB", {"keep_rgb": True}), ("RGB", {"progressive": True}), ("L", {})],
)
def test_jpegs_have_the_pixels_of_pillow(mode, settings):
    data = encode(PHOTO.convert(mode), "JPEG", **settings)
    assert np.array_equal(decode(data, 100_000), with_pillow(data))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 7), (2, 60)])
def test_tiny_jpegs_have_the_pixels_of_pillow(size):
    data = encode(PHOTO.resize(size), "JPEG")
    assert np.array_equal(decode(data), with_pillow(data))


@pytest.mark.parametrize("transform", [0, 2])
def test_inks_have_the_pixels_of_pillow(transform):
    data = encode(PHOTO.convert("CMYK"), "JPEG")
    place = data.index(b"Adobe") + 11  # 0 stands for CMYK, 2 for YCCK
    data = data[:place] + bytes([transform]) + data[place + 1 :]
    assert np.abs(decode(data, 100_000).astype(int) - with_pillow(data)).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 17), (130, 97)])
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_reduced_jpegs_round_their_sides_up(size, factor):
    picture = open_picture(encode(PHOTO.resize(size), "JPEG"), 100_000)
    assert (picture.width, picture.height) == size
    assert picture.pixels(factor).shape == (-(-size[1] // factor), -(-size[0] // factor), 3)


def test_only_jpegs_are_reduced():
    assert open_picture(encode(PHOTO, "JPEG"), 100_000).factors == (8, 4, 2, 1)
    assert open_picture(encode(PHOTO, "WEBP"), 100_000).factors == (1,)


@pytest.mark.parametrize("settings", [{"format": "JPEG"}, {"format": "JPEG", "progressive": True}, {"format": "PNG"}])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_cut_file_is_corrupt(settings, kept):
    data = encode(PHOTO, **settings)
    assert reason(data[: int(len(data) * kept)]) == "corrupt_image"


def test_wrong_codes_in_a_jpeg_are_corrupt():
    data = encode(PHOTO, "JPEG")
    half = len(data) // 2
    assert reason(data[:half] + bytes(200) + data[half + 200 :]) == "corrupt_image"


def test_what_follows_the_end_of_a_jpeg_does_no_harm():
    data = encode(PHOTO, "JPEG")
    assert np.array_equal(decode(data + b"\0trailer" * 99, 100_000), decode(data, 100_000))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damage_anywhere_is_a_picture_or_a_counted_fault(format):
    data = encode(PHOTO, format)
    generator = np.random.default_rng(0)
    for _ in range(100):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[generator.integers(0, len(data), 3)] = generator.integers(0, 256, 3)
        try:
            assert open_picture(damaged.tobytes(), 100_000).pixels().shape[2] == 3
        except BadSampleError as bad:
            assert bad.reason in ("corrupt_image", "oversized_image")


def test_large_print_beside_the_pixels_is_read_or_refused_but_never_unpacked():
    bomb = zlib.compress(bytes(80 << 20), 9)
    for chunk in (
        png_chunk(b"zTXt", b"bomb\0\0" + bomb),
        png_chunk(b"iTXt", b"bomb\0\1\0\0\0" + bomb),
        png_chunk(b"iCCP", b"bomb\0\0" + bomb),
    ):
        for before_pixels in (True, False):
            assert reason(with_chunks(chunk, before_pixels=before_pixels)) == "corrupt_image"
    assert decode(with_chunks(png_chunk(b"eXIf", bytes(1 << 20)))).shape == (4, 4, 3)


def test_small_print_without_end_is_refused():
    assert decode(with_chunks(*[png_chunk(b"tEXt", b"key\0value")] * 100)).shape == (4, 4, 3)
    assert reason(with_chunks(*[png_chunk(b"tEXt", b"key\0value")] * MOST_CHUNKS)) == "corrupt_image"
    profile = png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(1000)))
    assert decode(with_chunks(profile)).shape == (4, 4, 3)
    assert reason(with_chunks(profile, profile)) == "corrupt_image"


def test_a_jpeg_with_a_large_comment_is_read():
    data = encode(PHOTO, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 65535) + b"Exif\0\0" + bytes(65527)
    assert np.array_equal(decode(data[:2] + 100 * segment + data[2:], 100_000), decode(data, 100_000))


def test_scans_without_end_are_refused_by_their_number():
    data = encode(PHOTO.convert("L"), "JPEG", progressive=True)
    last = data[data.rindex(SCAN) : -2]
    with pytest.raises(BadSampleError, match="scans"):
        open_picture(data[:-2] + last * MOST_SCANS + data[-2:], 100_000)


def test_formats_with_interpreters_are_not_even_tried():
    for format in ("GIF", "TIFF", "EPS", "BMP"):
        with pytest.raises(BadSampleError, match="neither JPEG, PNG nor WebP"):
            decode(encode(Image.new("RGB", (2, 2)), format))


def test_jpegs_and_webps_are_refused_by_their_header():
    jpeg = bytearray(encode(PHOTO, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    webp = bytearray(encode(PHOTO, "WEBP"))
    webp[26:30] = struct.pack("<HH", 16_383, 16_383)
    assert reason(bytes(jpeg)) == reason(bytes(webp)) == "oversized_image"


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [101, 9000, 12_000, 40_000])
def test_large_images_are_refused_by_their_header(side):
    start = time.perf_counter()
    with pytest.raises(BadSampleError) as caught:
        decode(png_header(side, side))
    assert caught.value.reason == "oversized_image"
    assert time.perf_counter() - start < 0.2
