"""What is decoded on a device shows the same boxes as what the host decodes, and damage is the same damage."""

from __future__ import annotations

import io
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.data.test_crop import photograph
from tests.data.test_stream import same, take
from tests.shards import LetterTokenizer, image_bytes, write_shards, write_tar
from vlp.data import Captions, Card, Crop, SampleSet, Stream, Views
from vlp.data.pixels import device_decode
from vlp.data.pixels.crop import crop_views, rows_of
from vlp.data.pixels.decode import decode_image, open_picture
from vlp.data.pixels.device_decode import DeviceDecoder, check_decodes, decode_jpegs
from vlp.data.shards.cards import load_card
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError

CPU = torch.device("cpu")
OTHER_PIXELS = ("ids", "caption_ids", "tokens", "lengths", "draws", "cuts", "visits")


def encode(image, **settings):
    file = io.BytesIO()
    image.save(file, settings.pop("format", "JPEG"), **settings)
    return file.getvalue()


PHOTO = Image.fromarray(load_sample_images().images[0][:97, :130])


def open_both(card, crop=None, **settings):
    """Return a stream that decodes on the host, and one that leaves it to the device."""
    crops = (crop or Crop(8),) * settings.pop("num_views", 1)
    samples = SampleSet({card.name: card})
    settings = {"batch_size": 4, "seed": 0, **settings}

    def build(on_device):
        return Stream(samples, Views(crops, Captions()), LetterTokenizer(), on_device=on_device, **settings)

    return build(None), build(DeviceDecoder(CPU, crops))


def difference(first, second):
    """Return mean and largest difference of pixels, in 255ths."""
    found = (first.images.int() - second.images.int()).abs()
    return found.float().mean().item(), found.max().item()


# ---------------------------------------- the same boxes, nearly the same pixels
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_picture_decoded_whole_differs_by_rounding_alone(interpolation):
    crop = Crop((48, 40), interpolation=interpolation, decoding="exact")
    decoder = DeviceDecoder(CPU, (crop,))
    for name in (0, 1):
        data, _ = photograph(name, 400, 300)
        picture = open_picture(data)
        for number in range(12):
            (expected,), (cut,) = crop_views(picture, [(crop, Draws(number))])
            assert decoder.takes(picture, [cut])
            shown = torch.zeros(1, 2, 48, 40, 3, dtype=torch.uint8)
            rows = np.array([[cut.row]], dtype=np.float32)
            assert decoder({0: bytearray(data)}, rows, shown) == {}
            assert np.abs(shown[0, 0].numpy().astype(int) - expected).max() <= 1
            assert not shown[0, 1].any()  # nobody's row


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("formats", [("jpg",), ("jpg", "png", "webp")])
def test_batches_are_those_of_the_host(tmp_path, workers, formats):
    card = write_shards(tmp_path / "tiny", num_shards=2, samples_per_shard=9, formats=formats)
    crop = Crop(8, decoding="exact")
    host, device = open_both(card, crop, workers=workers, num_views=2)
    for expected, found in zip(take(host, 9), take(device, 9), strict=True):
        assert all(torch.equal(getattr(expected, name), getattr(found, name)) for name in OTHER_PIXELS)
        assert expected.images.shape == found.images.shape and difference(expected, found)[1] <= 1
        assert (expected.sources, expected.captions) == (found.sources, found.captions)
    assert device.faults.delivered == host.faults.delivered and not device.faults.counts


def test_workers_and_chunks_do_not_matter(tmp_path):
    card = write_shards(tmp_path / "tiny", num_shards=2, samples_per_shard=9)
    alone, shared = (open_both(card, workers=workers)[1] for workers in (0, 3))
    assert all(same(*pair) for pair in zip(take(alone, 9), take(shared, 9), strict=True))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """The shipped photographs as JPEGs, which they are not."""
    folder = tmp_path_factory.mktemp("photographs")
    samples, members = SampleSet({"photos": load_card("embedded-photos")}), []
    for number in range(len(samples)):
        image = decode_image(samples[number].read_image(1 << 20))
        members += with_damage(number, encode(image, quality=95, subsampling="4:2:0"))
    write_tar(folder / "00000.tar", members)
    return Card(name="photographs", shards="*.tar", captions={"txt": 1.0}, folder=folder)


@pytest.mark.parametrize(
    ("decoding", "size", "mean", "most"),
    [("exact", 224, 0.004, 2), ("fast", 224, 0.75, 51), ("exact", 64, 0.003, 2), ("fast", 64, 0.58, 39)],
)
def test_photographs_differ_as_the_docs_say(photographs, decoding, size, mean, most):
    """In 255ths: every shipped photograph (96 px), one random box each; the pixels `fast` differs by are chroma."""
    host, device = open_both(photographs, Crop(size, decoding=decoding), batch_size=59)
    pairs = [difference(*pair) for pair in islice(zip(host.batches(0), device.batches(0), strict=True), 3)]
    found = (np.mean([pair[0] for pair in pairs]), max(pair[1] for pair in pairs))
    assert 0 < found[0] <= mean and 0 < found[1] <= most


@pytest.mark.parametrize(
    ("decoding", "width", "mean", "most"),
    [("exact", 640, 0.004, 2), ("fast", 640, 0.49, 19), ("exact", 1600, 0.004, 2), ("fast", 1600, 0.37, 9)],
)
def test_pictures_of_a_usual_size_differ_as_the_docs_say(decoding, width, mean, most):
    """Two photographs, twelve random boxes each at 224 px; `fast` reduces those of 1600 px while it decodes."""
    crop, found = Crop(224, decoding=decoding), []
    for name in (0, 1):
        data, _ = photograph(name, width, width * 2 // 3)
        for number in range(12):
            (expected,), (cut,) = crop_views(open_picture(data), [(crop, Draws(number))])
            shown = torch.zeros(1, 1, 224, 224, 3, dtype=torch.uint8)
            assert DeviceDecoder(CPU, (crop,))({0: bytearray(data)}, rows_of([cut])[None], shown) == {}
            found.append(np.abs(shown[0, 0].numpy().astype(int) - expected))
    print(decoding, width, np.mean(found), np.max(found))
    assert 0 < np.mean(found) <= mean and np.max(found) <= most


# ---------------------------------------- what stays with the host
KINDS = [
    ({}, True),
    ({"progressive": True}, True),
    ({"subsampling": "4:4:4"}, True),
    ({"keep_rgb": True}, False),
    ({"format": "PNG"}, False),
    ({"format": "WEBP"}, False),
]


@pytest.mark.parametrize(("settings", "is_left"), KINDS)
def test_common_jpegs_alone_are_left_to_the_device(settings, is_left):
    picture = open_picture(encode(PHOTO, **settings))
    crop = Crop(32)
    assert DeviceDecoder(CPU, (crop,)).takes(picture, [crop.draw(picture, Draws(0))]) is is_left


@pytest.mark.parametrize(
    ("change", "is_left"),
    [
        (lambda data: data, True),
        (lambda data: data[:-40], False),  # ends too early
        (lambda data: data + b"\0", False),
    ],
)
def test_files_without_their_end_are_not_left_to_the_device(change, is_left):
    picture = open_picture(change(encode(PHOTO)))
    crop = Crop(32)
    assert DeviceDecoder(CPU, (crop,)).takes(picture, [crop.draw(picture, Draws(0))]) is is_left


def test_gray_is_left_and_inks_are_not():
    crop = Crop(32)
    for mode, is_left in (("L", True), ("CMYK", False)):
        picture = open_picture(encode(PHOTO.convert(mode)))
        assert DeviceDecoder(CPU, (crop,)).takes(picture, [crop.draw(picture, Draws(0))]) is is_left


def test_what_is_large_is_not_left(monkeypatch):
    crop = Crop(32)
    picture = open_picture(encode(PHOTO))
    cuts = [crop.draw(picture, Draws(0))]
    for name in ("MOST_BYTES_SENT", "MOST_PIXELS_SENT", "MOST_REDUCTION"):
        with monkeypatch.context() as patched:
            patched.setattr(device_decode, name, 1)
            assert not DeviceDecoder(CPU, (crop,)).takes(picture, cuts)


# ---------------------------------------- damage
def with_damage(number, damage):
    return [(f"{number:06d}.jpg", damage), (f"{number:06d}.txt", b"a caption")]


def with_broken_scan():
    """A progressive JPEG whose second scan names a component that there is not: its header is sound."""
    data = encode(PHOTO, progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 1)
    broken = data[: second + 5] + b"\x77" + data[second + 6 :]
    open_picture(broken)
    with pytest.raises(RuntimeError):
        decode_jpegs([bytearray(broken)], CPU)
    return broken


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_the_same_faults_with_the_same_substitutes(tmp_path, workers):
    damage = {1: with_broken_scan(), 5: image_bytes(5)[:-100], 7: b"no picture", 11: with_broken_scan()}
    card = write_shards(
        tmp_path / "tiny",
        num_shards=2,
        samples_per_shard=9,
        formats=("jpg", "png"),
        replace={number: with_damage(number, data) for number, data in damage.items()},
    )
    host, device = open_both(card, Crop(8, decoding="exact"), workers=workers)
    for expected, found in zip(take(host, 9), take(device, 9), strict=True):
        assert all(torch.equal(getattr(expected, name), getattr(found, name)) for name in OTHER_PIXELS)
        assert difference(expected, found)[1] <= 1
    assert device.faults.counts == host.faults.counts
    assert device.faults.counts["tiny", "corrupt_image"] >= 2 * len(damage)  # some are found as substitutes too


def test_a_sample_that_killed_a_process_is_not_read_again_by_the_trainer(tmp_path):
    """Whoever makes a part anew refuses what was refused in it before."""
    card = write_shards(
        tmp_path / "tiny", samples_per_shard=4, num_shards=1, replace={1: with_damage(1, with_broken_scan())}
    )
    _, device = open_both(card)
    batches = device._batches

    def refuse(sample):
        if sample == 2:
            raise device_decode.BadSampleError("killed_worker", "two processes ended over it")

    images = np.zeros(batches.shape(4), dtype=np.uint8)
    part = batches.part(0, 0, 4, images, refuse)
    packet = batches.join(0, [part], torch.from_numpy(images))
    assert sorted({(fault.id, fault.reason) for fault in packet.faults}) == [(1, "corrupt_image"), (2, "killed_worker")]
    assert not {1, 2} & set(packet.batch.ids.tolist())


def test_what_a_device_cannot_decode_the_host_does(tmp_path, monkeypatch):
    card = write_shards(tmp_path / "tiny", num_shards=1, samples_per_shard=8, formats=("jpg",))
    host, device = open_both(card, Crop(8, decoding="exact"))

    def refuse(files, device):
        raise RuntimeError("nvjpegDecode failed: 5")

    monkeypatch.setattr(device_decode, "decode_jpegs", refuse)
    for expected, found in zip(take(host, 4), take(device, 4), strict=True):
        assert difference(expected, found)[1] <= 1
    assert not device.faults.counts


def test_a_device_that_is_full_is_no_fault_of_a_picture(tmp_path, monkeypatch):
    card = write_shards(tmp_path / "tiny", num_shards=1, samples_per_shard=8, formats=("jpg",))
    _, device = open_both(card)

    def fill(files, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(device_decode, "decode_jpegs", fill)
    with pytest.raises(torch.OutOfMemoryError):
        take(device, 1)


# ---------------------------------------- CUDA
def test_a_machine_that_cannot_decode_says_so():
    check_decodes(CPU)
    with pytest.raises(
        RecipeError, match=r"data\.decode=device: torchvision cannot decode JPEGs on cuda:0 .*data\.decode=host"
    ):
        check_decodes(torch.device("cuda", 0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="nvJPEG needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_nvjpeg_shows_what_the_host_shows(photographs, workers):
    crops, device = (Crop(224, decoding="exact"),) * 2, torch.device("cuda", 0)
    samples = SampleSet({photographs.name: photographs})
    check_decodes(device)
    settings = {"batch_size": 59, "seed": 0, "workers": workers}
    host = Stream(samples, Views(crops, Captions()), LetterTokenizer(), **settings)
    there = Stream(
        samples, Views(crops, Captions()), LetterTokenizer(), on_device=DeviceDecoder(device, crops), **settings
    )
    for expected, found in zip(take(host, 3), take(there, 3), strict=True):
        assert found.images.device == device
        assert all(torch.equal(getattr(expected, name), getattr(found, name)) for name in OTHER_PIXELS)
        mean, _ = difference(expected, found.to(CPU))
        assert mean < 2  # chroma is smoothed in another way
    assert host.faults.counts == there.faults.counts
