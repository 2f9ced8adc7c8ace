"""Runs that train a decoder: resumed, on two processes, in micro-batches, and what does not fit beside it."""

from __future__ import annotations

import math
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.processes import run_processes
from tests.shards import image_bytes, write_tar
from tests.small_steps import batch_for, small_parts, small_recipe
from tests.strategies.runs import assert_resumes, losses_of
from tests.tiny import tiny_recipe
from tests.towers.tiny import WORDS, tiny_bert
from vlp import train as training
from vlp.evaluate import load
from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.towers.writing import Writing
from vlp.train import train

WRITES = (
    "model.embed_dim=32",
    "model.image={type: vit, layers: 1, width: 32, head_width: 16, patch_size: 16, image_size: 32, pooler_queries: 5,"
    " pooler_heads: 2, patch_dropout: 0}",
    "model.text={pool: cls, width: 32, vocab_size: 13}",
    "model.decoder={type: transformer, layers: 1, heads: 2}",
    "objective={clip: {}, uniformity: null, captioning: {weight: 2.0}}",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        samples = [(f"{n:06d}", n) for n in range(8 * shard, 8 * shard + 8)]
        images = [(f"{key}.jpg", image_bytes(n)) for key, n in samples]
        texts = [(f"{key}.txt", f"{WORDS[4 + n % 9]} {WORDS[4 + n % 7]}".encode()) for key, n in samples]
        write_tar(folder / f"{shard}.tar", sorted(images + texts))
    return f"{folder}/*.tar"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Settings of a decoder of thirteen words."""
    return (*WRITES, f"model.text.tokenizer={tiny_bert(tmp_path_factory.mktemp('bert'))}")


def test_a_run_resumes_bit_for_bit(tmp_path, shards, words):
    assert_resumes(tiny_recipe(tmp_path, shards, *words))


def test_a_run_with_a_backbone_of_timm_writes(tmp_path, shards, words):
    image = "model.image={type: timm, name: test_resnet, image_size: 32}"
    run = train(tiny_recipe(tmp_path, shards, *words[:1], image, *words[2:], "train.steps=2"))
    assert load(str(run)).caption_images([Image.new("RGB", (40, 30), "red")], Writing(max_words=2))[0]


def test_micro_batches_change_no_loss(tmp_path, shards, words):
    runs = [train(tiny_recipe(tmp_path, shards, *words, f"name=in_{k}", f"train.micro_batches={k}")) for k in (1, 4)]
    whole, parts = map(losses_of, runs)
    for one, other in zip(whole, parts, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


def _train(rank, world_size, folder, shards, words):
    (Path(folder) / str(rank)).mkdir()
    recipe = tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs", "name=two", *words)
    run = train(recipe)
    first = losses_of(run)
    dist.barrier()
    if rank == 0:
        shutil.rmtree(run / "checkpoints" / "step_00000006")
    dist.barrier()
    train(recipe, resume=True)
    return first, losses_of(run)


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path, shards, words):
    one = losses_of(train(tiny_recipe(tmp_path, shards, *words)))
    two, resumed = run_processes(_train, 2, str(tmp_path), shards, words)[0]
    assert resumed == two
    for ours, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)


def test_learning_to_write_and_writing(tmp_path, shards, words):
    """From chance on thirteen words to captions of one of them."""
    run = train(tiny_recipe(tmp_path, shards, *words, "train.steps=30", "optimizer.learning_rate=0.02"))
    first, *_, last = [line["loss/captioning"] for line in losses_of(run)]
    assert first > 0.9 * math.log(13) and last < 0.6 * first
    (caption,) = load(str(run)).caption_images([Image.new("RGB", (40, 30), "red")], Writing(max_words=5))
    assert set(caption.split()) <= set(WORDS[4:])


def test_both_kinds_of_gradient_norm_are_told(monkeypatch):
    recipe = small_recipe("vitb32_coca", "train.precision=float32")
    parts = small_parts(monkeypatch, recipe)
    _, norms = training.one_step(parts, batch_for(recipe, 8), 0)
    assert norms.keys() == {"image", "text", "decoder", "scale"} and float(norms["decoder"]) > 0


def test_half_precision_ends_at_the_losses(monkeypatch):
    recipe = small_recipe("vitb32_coca", "train.precision=bfloat16")
    parts = small_parts(monkeypatch, recipe)
    embeddings = training.embed(parts, batch_for(recipe, 8))
    assert embeddings.caption_losses.dtype == torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = small_parts(monkeypatch, small_recipe("vitb32_coca", "train.precision=float32"))
    exact.towers.load_state_dict(parts.towers.state_dict())
    whole = training.embed(exact, batch_for(recipe, 8))
    torch.testing.assert_close(embeddings.caption_losses, whole.caption_losses, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (("objective.captioning=null",), "no term trains it"),
        (("model.decoder=null",), "give the model a decoder"),
        (
            ("model.freeze=[visual]", "train.keep_locked=true", "data.crop={scale: [1, 1], flip: 0}"),
            "tokens of each image",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, shards, words, overrides, complaint):
    with warnings.catch_warnings(), pytest.raises(RecipeError, match=complaint):
        warnings.simplefilter("ignore")
        train(tiny_recipe(tmp_path, shards, *words, *overrides))
