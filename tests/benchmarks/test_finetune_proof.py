"""The comparison of ways of fine-tuning: each is a recipe of its own, and the table has the means over seeds."""

from __future__ import annotations

import json

import pytest

from benchmarks.finetune_proof import KEPT, OWN, START, TUNING, WAYS, build_parser, table, tune
from benchmarks.quick import settle
from vlp.ground.types import RecipeError
from vlp.recipe.compose import differences, load_recipe

TOWERS = ("model.embed_dim=16", *(each for each in START if each.startswith(("model.image", "model.text"))))


def test_every_way_differs_from_every_other():
    given = (*TOWERS, "name=a", "train.steps=1", "model.weights=null")
    recipes = [load_recipe("finetune", (*given, *TUNING, *settings)) for settings in WAYS.values()]
    for place, one in enumerate(recipes):
        assert one.data.train["embedded-photos"].card == "embedded-photos"
        assert all(differences(one, other) for other in recipes[place + 1 :])
    assert {recipe.model.tune.type for recipe in recipes} == {"full", "lora", "heads"}


def test_a_start_that_is_not_there_is_refused(tmp_path):
    parsed = settle(build_parser().parse_args(["--quick", "--runs", str(tmp_path)]))
    assert (parsed.seeds, parsed.steps) == (1, 2)
    with pytest.raises(RecipeError, match="start"):
        tune("full", 0, tmp_path / "start", parsed)


def test_the_table_has_means_over_seeds(tmp_path):
    folders = []
    for seed, value in enumerate((0.2, 0.4)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for task in (OWN, *KEPT):
            record = {"main_metric": "acc1", "metrics": {"acc1": {"value": value + (0.1 if task == KEPT[0] else 0.0)}}}
            (folder / f"{task}.json").write_text(json.dumps(record))
        folders.append(folder)
    rows = table({"one": folders[:1], "both": folders})
    assert rows[0] == ["way", f"own: {OWN}", f"kept: {KEPT[0]}", f"kept: {KEPT[1]}", "kept, mean"]
    assert rows[1:] == [["one", "20.0", "30.0", "20.0", "25.0"], ["both", "30.0", "40.0", "30.0", "35.0"]]
