"""A run whose JPEGs are decoded on the device, and what cannot be decoded there."""

from __future__ import annotations

import json

import pytest
import torch

from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.data import Captions, Crop, Views
from vlp.data.pixels.device_decode import DeviceDecoder
from vlp.data.pixels.native_crop import NativeCrop
from vlp.ground.patch_budget import PatchBudget
from vlp.ground.types import RecipeError
from vlp.run import build_stream
from vlp.run.decode_fit import build_device_decoder
from vlp.train import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ON_DEVICE = "data.decode=device"


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    return f"{tmp_path}/shards/*.tar"


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_learns_the_same_to_the_rounding_of_pixels(tmp_path, shards, monkeypatch, workers):
    settings = ("data.crop.decoding=exact", f"data.workers={workers}")
    expected = losses(train(tiny_recipe(tmp_path, shards, *settings)))
    monkeypatch.setattr(build_stream, "build_device_decoder", lambda data, views, _: DeviceDecoder(CPU, views.crops))
    found = losses(train(tiny_recipe(tmp_path, shards, *settings, ON_DEVICE, "name=there")))
    assert found == pytest.approx(expected, abs=1e-2) and len(found) == 6


def test_a_cpu_is_refused(tmp_path, shards):
    with pytest.raises(RecipeError, match=r"data\.decode=device: .* on cpu.*data\.decode=host"):
        train(tiny_recipe(tmp_path, shards, ON_DEVICE))


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (("data.policy={type: randaugment}",), r"data\.decode=device: data\.policy cannot"),
        (("data.documents={}",), r"data\.decode=device: data\.documents cannot"),
    ],
)
def test_what_decoding_processes_do_to_pixels_is_refused(tmp_path, shards, overrides, complaint):
    data = tiny_recipe(tmp_path, shards, ON_DEVICE, *overrides).data
    with pytest.raises(RecipeError, match=complaint):
        build_device_decoder(data, Views((Crop(8),), Captions()), CUDA)


def test_packed_images_are_refused(tmp_path, shards):
    views = Views((NativeCrop(Crop(8), PatchBudget(patch=4, most=4)),), Captions())
    with pytest.raises(RecipeError, match=r"data\.decode=device: .*model\.image\.max_patches"):
        build_device_decoder(tiny_recipe(tmp_path, shards, ON_DEVICE).data, views, CUDA)


def test_a_torchvision_that_cannot_is_refused(tmp_path, shards):
    """No device is to be seen in these tests, which is one of the ways in which it fails."""
    with pytest.raises(RecipeError, match=r"torchvision cannot decode JPEGs on cuda:0 .*nvJPEG"):
        build_device_decoder(tiny_recipe(tmp_path, shards, ON_DEVICE).data, Views((Crop(8),), Captions()), CUDA)


def test_the_host_is_the_default(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    assert recipe.data.decode == "host"
    assert build_device_decoder(recipe.data, Views((Crop(8),), Captions()), CUDA) is None
