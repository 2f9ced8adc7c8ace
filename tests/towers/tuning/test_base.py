"""What of the towers trains, by each way of tuning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.towers.tiny import TEXT, VIT, tiny_batch, tiny_bert, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.low_rank import adapters_of
from vlp.towers.tuning.base import tunings

TIMM = {"type": "timm", "name": "test_vit", "image_size": 160}


def trained(model):
    """Return the names of what trains, without the prefix of the module."""
    return {name.removeprefix("core.") for name, value in model.named_parameters() if value.requires_grad}


def gradients(model):
    """Return what gets a gradient from a loss of both embeddings that asks for all of their coordinates."""
    pixels, tokens, lengths = tiny_batch(model)
    seen = model(pixels, tokens, lengths.numpy())
    weight = torch.randn(seen.image.shape[1], generator=torch.Generator().manual_seed(5))
    ((seen.image @ weight) @ (seen.text @ weight) * seen.scale).backward()
    return {name.removeprefix("core.") for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", list(tunings))
def test_what_trains_gets_a_gradient_and_nothing_else_does(name):
    model = tiny_model(VIT | {"patch_size": 16}, tune=name)
    assert gradients(model) == trained(model)
    assert "logit_scale" in trained(model)


def test_full_leaves_nothing_out():
    model = tiny_model(tune="full")
    assert trained(model) == {name.removeprefix("core.") for name, _ in model.named_parameters()}


def test_a_locked_image_tower_leaves_the_text_tower():
    assert {name.partition(".")[0] for name in trained(tiny_model(tune="lit"))} == {"text", "logit_scale"}


def test_heads_are_what_stands_behind_the_blocks():
    found = trained(tiny_model(tune="heads"))
    assert found == {
        "visual.ln_post.weight", "visual.ln_post.bias", "visual.proj", "text.ln_final.weight", "text.ln_final.bias",
        "text.text_projection", "logit_scale",
    }  # fmt: skip


@pytest.mark.parametrize("image", [VIT | {"layers": 3}, TIMM], ids=["open_clip", "timm"])
def test_last_blocks_are_counted_from_the_end(image):
    model = tiny_model(image, {**TEXT, "layers": 3}, tune={"type": "last_blocks", "image": 1, "text": 2})
    behind = {name.removeprefix("core."): number for name, number in model.blocks_behind().items()}
    for name, number in behind.items():
        assert (name in trained(model)) == (number <= (1 if name.startswith("visual") else 2))


def test_a_tower_without_a_number_is_locked():
    model = tiny_model(tune={"type": "last_blocks", "image": None, "text": 1})
    assert model.locked_image
    assert trained(model) == trained(
        tiny_model(tune="last_blocks", freeze=("visual", "text.transformer.resblocks.0"))
    ) - {"text.token_embedding.weight", "text.positional_embedding"}


def test_no_blocks_are_the_heads():
    assert trained(tiny_model(tune={"type": "last_blocks", "image": 0, "text": 0})) == trained(tiny_model(tune="heads"))


def test_a_pattern_locks_more():
    assert not any(name.startswith("text") for name in trained(tiny_model(tune="heads", freeze=("text",))))


def test_adapters_of_encoders_of_transformers_and_timm(tmp_path):
    text = {"type": "transformers", "name": tiny_bert(tmp_path / "bert"), "proj": "linear", "context_length": 16}
    model = tiny_model(TIMM, text, tune="lora")
    ends = {name.rsplit(".", 1)[-1] for name, _, _ in adapters_of(model)}
    assert ends == {"qkv", "proj", "fc1", "fc2", "query", "key", "value", "dense"}
    assert gradients(model) == trained(model)


def test_batch_norm_keeps_what_it_has():
    model = tiny_model({"type": "timm", "name": "test_resnet", "image_size": 64}, lock_batch_norm=True)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    assert norms
    assert not model.has_batch_norm
    model.train()
    gradients(model)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    with pytest.raises(RecipeError, match=r"model\.lock_batch_norm: the towers have no batch norm"):
        tiny_model(lock_batch_norm=True)
