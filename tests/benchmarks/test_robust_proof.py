"""The proof of training against an adversary: ways differ, attacks are read, gates that fail are told."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from benchmarks import robust_proof
from benchmarks.processor_time import minutes_in, timed
from benchmarks.quick import settle
from benchmarks.robust_proof import FROM_SCRATCH, PLAIN, TASKS, TUNED, TUNING, build_parser, common, failed_gates, table
from vlp.recipe.compose import differences, load_recipe

TOWERS = (
    "model.embed_dim=16",
    "model.text={type: transformer, layers: 1, width: 16, heads: 1, context_length: 24}",
    "model.image={type: vit, layers: 1, width: 16, head_width: 16, patch_size: 16, image_size: 32}",
)


def test_every_way_differs_from_every_other(tmp_path):
    parsed = settle(build_parser().parse_args(["--quick", "--runs", str(tmp_path)]))
    recipes = [
        load_recipe("quickstart", (*common(way, 0, parsed), *settings)) for way, settings in FROM_SCRATCH.items()
    ]
    recipes.append(load_recipe("finetune_fare", (*common(TUNED, 0, parsed), *TUNING, *TOWERS, "train.steps=1")))
    assert all(differences(one, other) for one, other in pairwise(recipes))
    assert len({recipe.name for recipe in recipes}) == len(FROM_SCRATCH) + 1


def record_of(clean: float, left: dict[int, float], is_passed: bool = True):
    def metrics(value):
        return {"acc1": {"value": value, "low": 0.0, "high": 1.0, "count": 9}}

    worst = [
        {"label": "worst case", "radius": radius, "unit": "/255", "metrics": metrics(value)}
        for radius, value in left.items()
    ]
    gates = [{"name": "beats_chance", "is_passed": is_passed, "said": "0.3 above 0.2"}]
    task = {"main_metric": "acc1", "clean": metrics(clean), "attacks": [], "worst": worst, "gates": gates}
    return {"tasks": [{"task": TASKS[0], **task}]}


def test_the_table_has_means_and_deviations_over_seeds():
    records = {PLAIN: [record_of(0.5, {1: 0.2, 4: 0.0})], "CLAE": [record_of(0.4, {1: 0.3, 4: 0.1})]}
    records = {way: [*each, record_of(0.3, {1: 0.1, 4: 0.0})] for way, each in records.items()}
    rows = table(TASKS[0], records, {PLAIN: 1.0, "CLAE": 3.25})
    assert rows[0] == ["way", "clean", "1/255", "4/255", "minutes"]
    assert rows[1] == [PLAIN, "40.0 (14.1)", "15.0 (7.1)", "0.0 (0.0)", "1.0"]
    assert rows[2] == ["CLAE", "35.0 (7.1)", "20.0 (14.1)", "5.0 (7.1)", "3.2"]


def test_a_gate_that_failed_is_told_with_what_was_found():
    sound, bad = record_of(0.5, {1: 0.2}), record_of(0.5, {1: 0.2}, is_passed=False)
    assert failed_gates({PLAIN: [sound]}) == []
    (section,) = failed_gates({PLAIN: [sound, bad]})
    assert f"{PLAIN}, seed 1, {TASKS[0]}: beats_chance: 0.3 above 0.2" in section


def test_a_cost_is_kept_once(tmp_path):
    kept = tmp_path / "run.seconds"
    assert timed(kept, lambda: tmp_path) == tmp_path
    kept.write_text("90.0\n")
    timed(kept, lambda: tmp_path)
    assert minutes_in(kept) == 1.5


def test_a_try_of_the_whole_way(tmp_path, monkeypatch):
    usual = robust_proof.common
    monkeypatch.setattr(robust_proof, "common", lambda *given: (*usual(*given), *TOWERS, "data.workers=0"))
    robust_proof.main(["--quick", "--threads", "1", "--runs", str(tmp_path / "runs"), "--to", str(tmp_path)])
    (page,), (numbers,) = tmp_path.glob("*.md"), tmp_path.glob("*.json")
    assert set(json.loads(numbers.read_text())["found"]) == {*FROM_SCRATCH, TUNED}
    for name in (*TASKS, *FROM_SCRATCH, TUNED):
        assert name in page.read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("outcomes/*")}
    with pytest.MonkeyPatch.context() as patch:  # what is there is not made again
        patch.setattr(robust_proof, "train_recipe", lambda recipe, resume: recipe.folder)
        robust_proof.main(["--quick", "--threads", "1", "--runs", str(tmp_path / "runs"), "--to", str(tmp_path)])
        part = ["--ways", TUNED, "--tasks", TASKS[1], "--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "part")]
        robust_proof.main(["--quick", "--threads", "1", *part])
    (page,) = (tmp_path / "part").glob(f"robust-proof-{TASKS[1]}_*.md")
    assert all((name in page.read_text()) == (name in (TUNED, TASKS[1])) for name in (*TASKS, "CLAE", TUNED))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("outcomes/*")} != {}
