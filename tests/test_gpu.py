"""Whole runs on a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA, which `pytest -m gpu` alone sees"),
]
STILL = "model.image.patch_dropout=0.0"  # the device draws other numbers than the CPU


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    return f"{tmp_path}/shards/*.tar"


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        ((), 2e-3),  # TF32 in the towers
        (("train.deterministic=true",), 1e-4),
        (("data.workers=2",), 2e-3),  # out of page-locked memory
        (("train.micro_batches=2",), 2e-3),
        (("train.precision=bfloat16",), 3e-2),
        (("train.precision=float16",), 3e-2),
        (("train.compile=true",), 2e-3),
        (
            (
                "model.text.pool=cls",
                "model.decoder={type: transformer, layers: 1, heads: 2}",
                "objective.captioning={weight: 2.0}",
            ),
            5e-3,
        ),
        (("strategies.shuffled_captions={}", "objective.hard_negatives={type: clip_negatives}"), 5e-3),
    ],
    ids=str,
)
def test_a_run_on_the_gpu_has_the_losses_of_one_on_the_cpu(tmp_path, shards, monkeypatch, overrides, tolerance):
    found = losses(train(tiny_recipe(tmp_path, shards, "name=gpu", STILL, *overrides)))
    assert found == pytest.approx(_on_the_cpu(tmp_path, shards, *overrides), rel=tolerance)


def _on_the_cpu(folder, shards, *overrides):
    """Run in a process that sees no device: accelerate decides once."""
    import os
    import subprocess
    import sys

    tiny_recipe(folder, shards)
    hidden = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    words = ["name=cpu", STILL, "train.precision=float32", "train.compile=false"]
    words += [word for word in overrides if not word.startswith(("train.precision", "train.compile"))]
    command = [sys.executable, "-m", "vlp.train", str(folder / "recipe.yaml"), *words]
    subprocess.run(command, check=True, env={**os.environ, **hidden})
    return losses(folder / "runs" / "cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_whose_images_are_decoded_on_the_gpu_learns_the_same(tmp_path, shards, workers):
    """Images of noise have chroma that no two decoders smooth alike."""
    settings = (STILL, "data.crop.decoding=exact", f"data.workers={workers}")
    expected = losses(train(tiny_recipe(tmp_path, shards, "name=host", *settings)))
    found = losses(train(tiny_recipe(tmp_path, shards, "name=device", "data.decode=device", *settings)))
    assert found == pytest.approx(expected, rel=0.1)


def test_a_run_that_is_resumed_on_the_gpu_repeats(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards, "train.deterministic=true", "train.micro_batches=2")
    run = train(recipe)
    whole = losses(run)
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    train(recipe, resume=True)
    assert losses(run) == whole
