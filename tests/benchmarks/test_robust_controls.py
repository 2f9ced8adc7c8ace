"""Controls of robust training: each way is one of its own, and what has moved is told beside what is left."""

from __future__ import annotations

from itertools import combinations

import torch

from benchmarks import robust_controls, robust_proof
from benchmarks.quick import settle
from benchmarks.robust_controls import WAYS, build_parser, common, moved, table
from benchmarks.robust_proof import PLAIN, TASKS
from tests.benchmarks.test_robust_proof import TOWERS, record_of
from vlp.recipe.compose import differences, load_recipe


def test_every_way_differs_from_every_other_in_more_than_its_name(tmp_path):
    parsed = settle(build_parser().parse_args(["--quick", "--runs", str(tmp_path)]))
    recipes = [
        load_recipe(recipe, (*common("way", 0, parsed), *settings, *TOWERS, "train.steps=2"))
        for recipe, settings in WAYS.values()
    ]
    assert all(differences(one, other) for one, other in combinations(recipes, 2))


def test_the_control_changes_nothing_that_an_image_file_could_hold():
    recipe, settings = WAYS["FARE of nothing"]
    strategy = load_recipe(recipe, (*settings, *TOWERS, "train.steps=2")).strategies["fare"]
    assert strategy.epsilon < 0.5


def test_what_has_moved_stands_beside_what_is_left(monkeypatch, tmp_path):
    """Two seeds, whose images all move by a right angle, or stay."""
    start, away = torch.eye(4)[:2], torch.eye(4)[2:]
    monkeypatch.setattr(robust_controls, "embedded", lambda run, _: away if run.name.startswith("FARE") else start)
    monkeypatch.setattr(robust_controls, "mean_score", lambda runs, _: 50.0 if runs[0].name == "FARE-0" else 40.0)
    runs = {way: [tmp_path / f"{way}-{seed}" for seed in range(2)] for way in (PLAIN, "FARE")}
    records = {way: [record_of(0.5, {2: 0.25}), record_of(0.25, {2: 0.25})] for way in runs}
    rows = table(TASKS[0], runs, records)
    assert rows[0] == ["way", "all", "clean", "2/255", "moved"]
    assert rows[1] == [PLAIN, "40.0 (0.0)", "37.5 (17.7)", "25.0 (0.0)", "0.000"]
    assert rows[2] == ["FARE", "45.0 (7.1)", "37.5 (17.7)", "25.0 (0.0)", "2.000"]
    assert moved(runs["FARE"][:1], [away], TASKS[0]) == "0.000"


def test_a_try_of_the_whole_way(tmp_path, monkeypatch):
    usual = robust_controls.common
    for module in (robust_controls, robust_proof):
        monkeypatch.setattr(module, "common", lambda *given: (*usual(*given), *TOWERS, "data.workers=0"))
    ways = ["FARE of nothing", "purifier"]
    robust_controls.main(["--quick", "--ways", *ways, "--runs", str(tmp_path / "runs"), "--to", str(tmp_path)])
    (page,) = tmp_path.glob("*.md")
    for name in (*TASKS, PLAIN, *ways):
        assert name in page.read_text()
