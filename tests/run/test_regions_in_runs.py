"""Runs on captions of regions: resumed, on two processes, in micro-batches, exported, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.run.whole_runs import (
    assert_learns_and_resumes,
    assert_micro_batches_change_no_loss,
    assert_two_processes_equal_one,
)
from tests.shards import image_bytes, write_shards
from tests.tiny import tiny_recipe
from tests.towers.tiny import WORDS, tiny_batch, tiny_bert
from vlp.export import export_model
from vlp.ground.types import RecipeError
from vlp.run.assemble import assemble
from vlp.run.trained_model import load_model_of_run
from vlp.towers.generation.caption_writer import CaptionWriter
from vlp.towers.load import load_model
from vlp.towers.writing import Writing
from vlp.train import train

READS = (
    "model.image.patch_dropout=0",
    "model.text={causal: false, pool: last, vocab_size: 13}",
    "model.decoder={type: locating, layers: 1, heads: 2, width: 24, bins: 10}",
    "objective={clip: {}, uniformity: null, locca: {}}",
    "data.regions={}",
)


def members(number):
    regions = [
        {"box": [k / 4, 0.1, (k + 1.5) / 4, 0.3 + number % 5 / 9], "caption": f"a {WORDS[4 + (number + k) % 9]}"}
        for k in range(number % 3)
    ]
    record = {"caption": f"{WORDS[4 + number % 9]} of {WORDS[4 + number % 7]}", "regions": regions}
    return [(f"{number:06d}.jpg", image_bytes(number)), (f"{number:06d}.json", json.dumps(record).encode())]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A card of images with no, one or two regions, and a model of thirteen words."""
    folder = tmp_path_factory.mktemp("cards")
    write_shards(folder, 2, 12, replace={number: members(number) for number in range(24)})
    (folder / "card.yaml").write_text(
        "name: parts\nshards: '*.tar'\ncaptions: {json.caption: 1.0}\nregions: json.regions\n"
    )
    tokenizer = tiny_bert(tmp_path_factory.mktemp("bert"))
    return (*READS, f"model.text.tokenizer={tokenizer}", f"data.train.tiny.card={folder}/card.yaml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings):
    """A run without interruption."""
    return train(tiny_recipe(tmp_path_factory.mktemp("whole"), "", *settings))


def test_micro_batches_change_no_loss(tmp_path, settings, whole):
    assert_micro_batches_change_no_loss(tmp_path, settings, whole)


def test_it_learns_and_resumes_bit_for_bit(whole):
    assert_learns_and_resumes(whole, "locca")


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path, settings, whole):
    assert_two_processes_equal_one(tmp_path, settings, whole)


@torch.no_grad()
def test_an_export_has_the_towers_and_says_what_is_lost(tmp_path, whole):
    model = load_model_of_run(whole).model
    with pytest.raises(RecipeError, match=r"type: locating.* writes none"):
        CaptionWriter(model, Writing())
    report = export_model(model, tmp_path / "alone", name="alone", recipe_text="", results=[], data_note="")
    assert "not for captions: no library has a place for a decoder of captions and boxes" in str(report)
    again = load_model(str(tmp_path / "alone"))
    pixels, tokens, lengths = tiny_batch(model)
    ours, theirs = (each.eval()(pixels, tokens, lengths.numpy()) for each in (model, again))
    assert again.decoder is None and torch.allclose(ours.image, theirs.image, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (("objective.locca=null", "objective.captioning={}"), r"data\.regions: no term reads captions of regions"),
        (("data.regions=null",), r"needs what a decoder says of regions.*data\.regions=\{\}"),
        (("data.policy={type: randaugment}",), r"data\.policy: moves what images show"),
        (("model.decoder.heads=5",), r"heads 5 does not divide"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_does_not_fit_is_refused(tmp_path, settings, overrides, complaint):
    with pytest.raises(RecipeError, match=complaint):
        assemble(tiny_recipe(tmp_path, "", *settings, *overrides), resume=False, allow_changes=False)


@pytest.mark.filterwarnings("ignore")
def test_cards_without_regions_are_refused_unless_a_key_is_named(tmp_path, settings):
    recipe = tiny_recipe(tmp_path, "", *settings)
    card = tmp_path / "plain.yaml"
    folder = Path(recipe.data.train["tiny"].card).parent
    card.write_text(f"name: plain\nshards: {folder}/*.tar\ncaptions: {{json.caption: 1.0}}\n")
    plain = (*settings, f"data.train.tiny.card={card}")
    with pytest.raises(RecipeError, match=r"data\.regions: no card of data\.train says where"):
        assemble(tiny_recipe(tmp_path, "", *plain), resume=False, allow_changes=False)
    assemble(tiny_recipe(tmp_path, "", *plain, "data.regions.key=json.regions"), resume=False, allow_changes=False)
