"""A recipe that names weights, and no towers, has the towers that the weights belong to."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.towers.tiny import tiny_export
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe, lock_text, recipe_layers
from vlp.recipe.layers import explain_sources
from vlp.recipe.model import build_model
from vlp.train import train

GIVEN = ("name=tuned", "data.train=embedded", "train.steps=1", "train.batch_size=8", "data.workers=0")
WORDS = "{type: transformer, layers: 1, width: 32, heads: 2, context_length: 16}"


def test_names_of_open_clip():
    model = load_recipe("base", (*GIVEN, "model.weights=ViT-B-32:laion2b_s34b_b79k")).model
    assert (model.image.type, model.image.name, model.text.name) == ("open_clip", "ViT-B-32", "ViT-B-32")
    assert model.weights == "ViT-B-32:laion2b_s34b_b79k"


def test_a_lock_that_lies_above_something_else_is_none_of_its_own(tmp_path, monkeypatch):
    place = tiny_export(tmp_path / "export")
    (tmp_path / "recipe.lock.yaml").write_text(f"model: {{image: {WORDS}, text: {WORDS}}}")
    monkeypatch.chdir(tmp_path)
    model = load_recipe("base", (*GIVEN, "model.weights=ViT-B-32:openai")).model
    assert (model.image.type, model.text.type) == ("open_clip", "open_clip")
    (tmp_path / "exports").mkdir()
    place = shutil.move(place, tmp_path / "exports" / "mine")
    model = load_recipe("base", (*GIVEN, f"model.weights={place}")).model
    assert (model.image.type, model.text.type) == ("open_clip", "open_clip")


def test_single_settings_of_a_tower_are_kept():
    given = (*GIVEN, "model.weights=ViT-B-32:openai", "model.image.image_size=288", f"model.text={WORDS}")
    model = load_recipe("base", given).model
    assert (model.image.name, model.image.image_size, model.text.type) == ("ViT-B-32", 288, "transformer")


def test_a_folder_and_a_checkpoint_of_open_clips_trainer(tmp_path):
    place = tiny_export(tmp_path / "export")
    model = build_model(load_recipe("base", (*GIVEN, f"model.weights={place}")).model)
    weights = load_file(place / "open_clip_model.safetensors")
    assert all(torch.equal(model.core.state_dict()[name], value) for name, value in weights.items())

    towers = "{image: {type: open_clip, name: ViT-S-32-alt}, text: {type: open_clip, name: ViT-S-32-alt}}"
    full = build_model(load_recipe("base", (*GIVEN, f"model={towers}")).model)
    state = {f"module.{name}": value for name, value in full.core.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "epoch_3.pt")
    again = load_recipe("base", (*GIVEN, f"model.weights=ViT-S-32-alt:{tmp_path / 'epoch_3.pt'}")).model
    found = build_model(again).core.state_dict()
    assert all(torch.equal(found[name], value) for name, value in full.core.state_dict().items())
    with pytest.raises(RecipeError, match="does not say what its towers are: name an open_clip model before it"):
        load_recipe("base", (*GIVEN, f"model.weights={tmp_path / 'epoch_3.pt'}"))


def test_a_run_its_labels_and_its_checkpoints(tmp_path):
    given = (
        *GIVEN, "model.embed_dim=16", "model.text=" + WORDS, "model.resize_mode=squash", "strategies.ema={}",
        "model.image={type: vit, layers: 1, width: 32, head_width: 16, patch_size: 16, image_size: 32}",
        "model.freeze=[visual.conv1]", "train.precision=float32",
    )  # fmt: skip
    first = load_recipe("base", (*given, f"runs={tmp_path}", "name=first"))
    run = train(first)
    step = next((run / "checkpoints").glob("step_*"))
    for weights in (run, f"{run}:ema", step, step / "ema.safetensors"):
        model = load_recipe("base", (*GIVEN, f"model.weights={weights}", "model.tune=heads")).model
        assert (model.image, model.text) == (first.model.image, first.model.text)
        assert (model.embed_dim, model.resize_mode, model.freeze) == (16, "squash", ())
    shutil.move(run, tmp_path / "moved")
    with pytest.raises(RecipeError, match="no run, export or model folder at"):
        build_model(load_recipe("base", (*GIVEN, f"model.weights={run}")).model)


def test_it_is_said_where_towers_come_from():
    lines = explain_sources(recipe_layers("base", (*GIVEN, "model.weights=ViT-B-32:openai")))
    assert "model.image.name = ViT-B-32  (model.weights ViT-B-32:openai)" in lines


def test_cards_alone_name_their_sources():
    one = load_recipe("smoke", ("data.train=embedded-photos",))
    assert {label: source.card for label, source in one.data.train.items()} == {"embedded-photos": "embedded-photos"}
    two = load_recipe("smoke", ("data.train=[cards/mine.yaml, embedded]",))
    assert {label: source.card for label, source in two.data.train.items()} == {
        "mine": "cards/mine.yaml", "embedded": "embedded",
    }  # fmt: skip
    with pytest.raises(RecipeError, match=r"data\.train"):
        load_recipe("smoke", ("data.train=[1, 2]",))


@pytest.mark.parametrize("cards", ["[a/pairs.yaml, b/pairs.yaml]", "[web.2024, web.2025]", "[embedded, embedded]"])
def test_no_card_is_left_out_as_another_has_its_label(cards):
    with pytest.raises(RecipeError, match=r"data\.train: 2 cards are labelled '(pairs|web|embedded)'"):
        load_recipe("smoke", (f"data.train={cards}",))


def test_a_way_of_tuning_has_a_short_form(tmp_path):
    recipe = load_recipe("smoke", ("model.tune=lora",))
    assert recipe.model.tune.rank == 8
    (tmp_path / "lock.yaml").write_text(lock_text(recipe))
    assert load_recipe(str(tmp_path / "lock.yaml")) == recipe
    assert load_recipe("smoke", ("model.tune=null",)).model.tune.type == "full"
    with pytest.raises(RecipeError, match="unknown type 'lorra'; did you mean 'lora'"):
        load_recipe("smoke", ("model.tune=lorra",))
