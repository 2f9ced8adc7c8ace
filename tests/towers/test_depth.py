"""How deep parameters lie, in towers of every family, and what a decay of the learning rate by layer makes of it."""

from __future__ import annotations

import pytest
import torch

from tests.small_steps import batch_for, small_parts, small_recipe
from tests.towers.tiny import TEXT, VIT, tiny_bert, tiny_model
from vlp import train
from vlp.ground.types import RecipeError
from vlp.step.optimizer import BASE_RATE, GroupSettings, build_optimizer
from vlp.towers.blocks import blocks_of

TIMM = {"type": "timm", "image_size": 64}
IMAGES = {
    "vit": ({**VIT, "layers": 3}, 3, ("conv1.weight", "class_embedding", "ln_pre.weight"), ("ln_post.weight", "proj")),
    "timm vit": (
        {**TIMM, "name": "test_vit", "image_size": 160},
        None,
        ("trunk.patch_embed.proj.weight", "trunk.pos_embed"),
        ("trunk.norm.weight", "head.proj.weight"),
    ),
    "timm resnet": ({**TIMM, "name": "test_resnet"}, None, ("trunk.conv1.0.weight",), ("head.proj.weight",)),
    "timm efficientnet": (
        {**TIMM, "name": "test_efficientnet"},
        None,
        ("trunk.conv_stem.weight", "trunk.bn1.weight"),
        ("trunk.conv_head.weight", "trunk.bn2.weight", "head.proj.weight"),
    ),
    "timm convnext": ({**TIMM, "name": "test_convnext"}, None, ("trunk.stem.0.weight",), ("head.proj.weight",)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_towers_name_their_depth(name):
    image, number, first, last = IMAGES[name]
    tower = tiny_model(image=image).core.visual
    behind = tiny_model(image=image).blocks_behind()
    number = number or len(list(blocks_of(tower)))
    assert number > 1
    assert {behind[f"core.visual.{each}"] for each in first} == {number + 1}
    assert {behind[f"core.visual.{each}"] for each in last} == {0}
    of_blocks = {behind[key] for key in behind if key.startswith("core.visual.")} - {0, number + 1}
    assert of_blocks == set(range(1, number + 1))
    assert behind.keys() == {key for key, _ in tiny_model(image=image).named_parameters() if "logit" not in key}


def test_text_towers_name_their_depth(tmp_path):
    behind = tiny_model(text={**TEXT, "layers": 3}).blocks_behind()
    assert {behind[f"core.text.{name}"] for name in ("token_embedding.weight", "positional_embedding")} == {4}
    assert [behind[f"core.text.transformer.resblocks.{k}.mlp.c_fc.weight"] for k in range(3)] == [3, 2, 1]
    assert {behind[f"core.text.{name}"] for name in ("ln_final.weight", "text_projection")} == {0}


def test_encoders_of_transformers_name_their_depth(tmp_path):
    text = {"type": "transformers", "name": str(tiny_bert(tmp_path / "bert")), "proj": "linear", "context_length": 16}
    behind = tiny_model(text=text).blocks_behind()
    of = {name.removeprefix("core.text."): number for name, number in behind.items() if name.startswith("core.text.")}
    deepest = max(of.values())
    assert {number for name, number in of.items() if "embeddings" in name} == {deepest}
    assert {number for name, number in of.items() if name.startswith("proj")} == {0}
    assert {number for name, number in of.items() if ".layer.0." in name} == {deepest - 1}


def rates_of(model, **settings):
    """Return the rate of each parameter, by name."""
    optimizer = build_optimizer(model, model.blocks_behind(), learning_rate=1.0, **settings)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert all(group["lr"] == group[BASE_RATE] for group in optimizer.param_groups)
    return {name: rate[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in rate}


def test_rates_fall_towards_the_input():
    model = tiny_model(image={**VIT, "layers": 3}, text={**TEXT, "layers": 2})
    rates = rates_of(model, layer_decay=0.5)
    assert rates["core.visual.proj"] == rates["core.logit_scale"] == rates["core.text.ln_final.weight"] == 1.0
    assert rates["core.visual.transformer.resblocks.2.ln_1.weight"] == 0.5
    assert rates["core.visual.transformer.resblocks.0.ln_1.weight"] == 0.125
    assert rates["core.visual.conv1.weight"] == 0.0625
    assert rates["core.text.token_embedding.weight"] == 0.125
    assert set(rates_of(model, layer_decay=1.0).values()) == {1.0}


def test_each_tower_may_have_a_decay_of_its_own():
    model = tiny_model(image={**VIT, "layers": 3}, text={**TEXT, "layers": 2})
    rates = rates_of(model, layer_decay={"image": 0.5})
    assert rates["core.visual.conv1.weight"] == 0.0625
    assert {rate for name, rate in rates.items() if not name.startswith("core.visual.")} == {1.0}
    rates = rates_of(model, layer_decay={"image": 0.5, "text": 0.1})
    assert rates["core.visual.transformer.resblocks.2.ln_1.weight"] == 0.5
    assert rates["core.text.token_embedding.weight"] == pytest.approx(1e-3)


def test_factors_of_groups_multiply():
    model = tiny_model()
    rates = rates_of(model, layer_decay=0.5, groups={"text": GroupSettings(match=("text",), learning_rate_factor=0.1)})
    assert rates["core.text.ln_final.weight"] == pytest.approx(0.1)
    assert rates["core.text.transformer.resblocks.1.ln_1.weight"] == pytest.approx(0.05)
    assert rates["core.visual.proj"] == 1.0


def test_first_layers_move_least():
    model = tiny_model()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, model.blocks_behind(), learning_rate=1e-3, weight_decay=0.0, layer_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: float((value - before[name]).abs().max()) for name, value in model.named_parameters()}
    assert moved["core.visual.conv1.weight"] == pytest.approx(1e-3 * 1e-3, rel=0.05)
    assert moved["core.visual.proj"] == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, {"text": 2.0}])
def test_a_decay_that_is_none_is_refused(value):
    with pytest.raises(RecipeError, match=r"optimizer\.layer_decay"):
        build_optimizer(tiny_model(), layer_decay=value)


def test_networks_of_terms_lie_in_no_tower(monkeypatch):
    recipe = small_recipe("vitb32_amcl", "optimizer.layer_decay=0.5", "train.precision=float32")
    parts = small_parts(monkeypatch, recipe)
    of_terms, of_towers = (
        {group["lr"] for group in one.param_groups} for one in (parts.term_optimizer, parts.optimizer)
    )
    assert of_terms == {recipe.optimizer.learning_rate}
    assert len(of_towers) == 3  # in and behind the one block, and before it
    train.one_step(parts, batch_for(recipe, 16), 0)
