"""The benchmarks: what they measure, what they ask of open_clip, and what they write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import bench_objectives, soak_loader
from benchmarks.bench_quickstart import TASKS, again, build_parser, read_scores
from benchmarks.measure import last_line, run_measured, tree_bytes
from benchmarks.objective_cases import Case, Cost
from benchmarks.objective_numerics import FLOAT32, GradientError, gradient_errors
from benchmarks.objective_report import Row as CaseRow
from benchmarks.objective_report import error as error_shown
from benchmarks.objective_report import fraction, targets, times
from benchmarks.objective_report import write_report as write_objectives
from benchmarks.peer_open_clip import (
    AUGMENTATIONS,
    ROOT,
    epochs_of,
    export_checkpoint,
    train_command,
    trainer_flags,
    write_config,
)
from benchmarks.quickstart_report import (
    COMPARED,
    QUALITY,
    Row,
    gigabytes,
    minutes,
    target_records,
    write_report,
)
from benchmarks.tables import percent, slug
from vlp.objectives.base import terms
from vlp.recipe.compose import load_recipe

ABOUT = {
    "date": "2030-01-31",
    "commit": "0123456789ab",
    "machine": "Some CPU (R) 9000, 2 cores",
    "versions": {"torch": "2.15.0"},
    "peer_versions": {"open_clip_torch": "4.0.1", "webdataset": "0.2.86"},
    "recipe": "recipes/quickstart.yaml",
    "overrides": [],
    "command": "python -m benchmarks.bench_quickstart",
}


def row(seed=0, trainer="vlp", score=0.5, seconds=600.0):
    scores = dict.fromkeys((metric for _, metric in COMPARED), score)
    return Row(trainer, seed, 60_000, seconds, 2 * seconds, 1_234_567_890, scores, "python -m train --all")


def reached(rows):
    return {record["what"]: record["reached"] for record in target_records(rows)}


def test_numbers_are_never_shown_better_than_they_are():
    assert percent(0.35999) == "35.9 %"
    assert percent(0.36) == "36.0 %"
    assert minutes(720.1) == "12.1 min"
    assert gigabytes(4_000_000_001) == "4.01 GB"


def test_a_target_looks_at_the_mean_over_seeds():
    rows = [replace(row(seed), scores=row().scores | {"emoji24/acc1": value}) for seed, value in enumerate((0.3, 0.42))]
    assert reached(rows)["emoji24 acc1"]
    rows[0].scores["emoji24/acc1"] = 0.2999
    assert not reached(rows)["emoji24 acc1"]


def test_a_limit_looks_at_the_worst_seed():
    assert reached([row(0), row(1, seconds=720.0)])["training wall time"]
    assert not reached([row(0), row(1, seconds=720.1)])["training wall time"]
    assert not reached([row(0), replace(row(1), peak_bytes=4_000_000_000)])["peak memory"]


def test_the_report_shows_both_trainers_and_misses(tmp_path):
    rows = [row(0), row(1, score=0.1), row(0, trainer="open_clip, default augmentation", seconds=1500.0)]
    page = write_report(tmp_path, ABOUT, rows)
    assert page.name == "quickstart_some-cpu-r-9000-2-cores_2030-01-31.md"
    text = page.read_text()
    assert "| emoji24 acc1 | 30.0 % | 10.0 % .. 50.0 % | >= 36.0 % | **no** |" in text
    assert "| photos-cc0 acc1 | 30.0 % | 10.0 % .. 50.0 % | >= 20.0 % | yes |" in text
    assert "| mean | vlp | open_clip, default augmentation |" in text
    assert "seeds 0, 1. Beside open_clip 4.0.1.\n" in text
    assert "| wall time | 10.0 min | 25.0 min (x 2.50) |" in text
    record = json.loads(page.with_suffix(".json").read_text())
    assert len(record["rows"]) == 3
    assert record["commit"] == ABOUT["commit"]


def test_the_report_does_without_a_peer(tmp_path):
    text = write_report(tmp_path, {**ABOUT, "peer_versions": {}}, [row()]).read_text()
    assert "| mean | vlp |\n" in text
    assert "Beside" not in text


def test_every_target_is_compared():
    assert {target.metric for target in QUALITY} <= {metric for _, metric in COMPARED}


def test_the_command_line_names_no_place_of_this_machine():
    parsed = build_parser().parse_args(["train.samples=64", "--seeds", "3", "--peer-python", "/opt/peer/bin/python"])
    assert again(parsed) == (
        "python -m benchmarks.bench_quickstart train.samples=64 "
        "--recipe recipes/quickstart.yaml --seeds 3 --peer-seeds 0"
    )


def test_scores_of_a_missing_task_are_an_error(tmp_path):
    for task in TASKS:
        record = {"task": task, "metrics": {"acc1": {"value": 0.25}}}
        (tmp_path / f"{task}.json").write_text(json.dumps(record))
    assert read_scores(tmp_path)["emoji24/acc1"] == 0.25
    (tmp_path / "emoji24.json").write_text(json.dumps({"task": "emoji24", "error": "no images"}))
    with pytest.raises(RuntimeError, match="emoji24"):
        read_scores(tmp_path)


def test_memory_and_time_of_grandchildren_count(tmp_path):
    grandchild = "import time; block = b'x' * 200_000_000; [i for i in range(4_000_000)]; time.sleep(1.2)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}]); print('done')"
    log = tmp_path / "log.txt"
    command = [sys.executable, "-c", program]
    cost = run_measured(command, log, folder=tmp_path, environment=os.environ, tell=print)
    assert cost.peak_bytes > 200e6
    assert cost.cpu_seconds > 0.05
    assert cost.wall_seconds > 1.2
    assert last_line(log) == "done"


def test_shared_pages_count_once():
    assert 0 < tree_bytes(os.getpid()) < 100e9


def test_a_failed_command_shows_the_end_of_its_output(tmp_path):
    with pytest.raises(RuntimeError, match="no such thing"):
        command = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
        run_measured(command, tmp_path / "log.txt", folder=tmp_path, environment=os.environ, tell=print)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("samples", [4_096, 50_000, 51_200])
def test_the_peer_never_sees_fewer_samples(samples, workers):
    recipe = load_recipe("recipes/smoke.yaml", [f"train.samples={samples}"])
    epochs, steps_per_epoch = epochs_of(recipe, 4_436, workers)
    seen = epochs * steps_per_epoch * recipe.train.batch_size
    assert 0 <= seen - samples <= epochs * max(1, workers) * recipe.train.batch_size
    assert steps_per_epoch % max(1, workers) == 0


@pytest.fixture(scope="module")
def peer_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer")
    recipe = load_recipe("recipes/smoke.yaml")
    return recipe, folder, write_config(recipe, folder)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_peer_trains_as_the_recipe_says(peer_config, augmentation):
    recipe, folder, config = peer_config
    preprocess = config["preprocess_cfg"]
    flags, samples = trainer_flags(recipe, preprocess, folder, seed=7, augmentation=augmentation)
    given = dict(zip(flags[::2], flags[1::2], strict=False))
    assert given["--seed"] == "7"
    assert float(given["--lr"]) == recipe.optimizer.learning_rate
    assert given["--precision"] == "fp32"
    assert given["--train-data"].count("::") + 1 >= int(given["--workers"])
    assert not any(word.startswith(str(ROOT)) for word in flags)
    assert samples >= recipe.train.samples
    assert train_command(ROOT / "python", folder, flags)[3:] == flags


def test_an_exported_peer_is_the_model_that_was_trained(peer_config):
    from vlp.recipe.model import build_model
    from vlp.towers.load import load_model

    recipe, folder, config = peer_config
    model = build_model(recipe.model).eval()
    checkpoints = folder / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    # open_clip's scale has no dimension
    state = {
        name: value.squeeze() if name == "logit_scale" else value for name, value in model.core.state_dict().items()
    }
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, checkpoints / "epoch_3.pt")
    loaded = load_model(str(export_checkpoint(folder, config)))
    images = torch.rand(2, 3, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.embed_images(images), model.embed_images(images))
    assert loaded.preprocess_cfg == model.preprocess_cfg


def test_slugs_are_file_names():
    assert slug("AMD EPYC (TM) 7B13, 2 cores") == "amd-epyc-tm-7b13-2-cores"


OBJECTIVES_ABOUT = {
    "date": "2030-01-31",
    "commit": "0123456789ab",
    "machine": "Some CPU (R) 9000, 2 cores",
    "versions": {"torch": "2.15.0"},
    "device": "cpu",
    "peak_tflops": None,
    "rounds": 3,
    "rounds_wanted": 3,
    "command": "python -m benchmarks.bench_objectives --rounds 3",
}


def case_row(name, pairs, seconds, processes=1, peak=100.0, **more):
    return CaseRow(name, pairs, processes, cpu=[seconds] * 3, wall=[seconds] * 3, peak_mb=[peak] * 3, **more)


def default_plan():
    parsed = bench_objectives.build_parser().parse_args([])
    rounds = [case for _ in range(parsed.rounds) for case in bench_objectives.cases(parsed)]
    return rounds + list(bench_objectives.more_cases(parsed))


def verdicts(rows, errors=()):
    return {target.what: target.reached for target in targets(rows, errors)}


def test_ratios_are_never_shown_better_than_they_are():
    assert times(0.57) == "0.57 x"
    assert times(0.570001) == "0.58 x"
    assert fraction(1 / 15) == "1/15.0"
    assert fraction(1 / 14.99) == "1/14.9"
    assert error_shown(1e-5) == "1.0e-05"
    assert error_shown(1.0001e-5) == "1.1e-05"
    assert error_shown(9.99e-7) == "1.0e-06"


def test_a_verdict_looks_at_the_exact_ratio():
    what = "clip: time of open_clip.ClipLoss, 4096 pairs"
    peer = case_row("open_clip.ClipLoss", 4096, 1.0)
    assert verdicts([peer, case_row("clip", 4096, 0.57)])[what] is True
    assert verdicts([peer, case_row("clip", 4096, 0.5701)])[what] is False
    assert verdicts([peer])[what] is None


def test_memory_counts_as_a_share_of_the_peer():
    what = "clip: memory of open_clip.ClipLoss, 16384 pairs"
    peer = case_row("open_clip.ClipLoss", 16384, 1.0, peak=3000.0)
    assert verdicts([peer, case_row("clip", 16384, 1.0, peak=200.0)])[what] is True
    assert verdicts([peer, case_row("clip", 16384, 1.0, peak=200.1)])[what] is False


@pytest.mark.parametrize(
    ("name", "pairs", "products"),
    [("clip", 4096, 3 * 16), ("clip", 16384, 4 * 256 - 16), ("siglip", 4096, 3 * 16), ("siglip", 16384, 3 * 256)],
)
def test_the_bound_counts_products_of_tiles(name, pairs, products):
    """With 10 ms per product the bound is 10 ms x products, here reached to exactly 90 %, and then not."""
    what = f"{name}: share of the matrix-product bound, {pairs} pairs"
    tiles = [case_row("tile_mm", 1024, 0.01), case_row("tile_addmm", 1024, 0.01)]
    seconds = 0.01 * products / 0.9
    assert verdicts([*tiles, case_row(name, pairs, 0.9999 * seconds)])[what] is True
    assert verdicts([*tiles, case_row(name, pairs, 1.0001 * seconds)])[what] is False


def test_two_processes_are_compared_with_one():
    what = "clip: wall time of two processes relative to one, 8192 pairs"
    assert verdicts([case_row("clip", 8192, 1.0), case_row("clip", 8192, 0.6, processes=2)])[what] is True
    assert verdicts([case_row("clip", 8192, 1.0), case_row("clip", 8192, 0.61, processes=2)])[what] is False


def test_a_gradient_error_has_a_limit():
    what = f"clip: gradient error, {FLOAT32}"
    assert verdicts([], [GradientError("clip", FLOAT32, 1e-5, 1.0)])[what] is True
    assert verdicts([], [GradientError("clip", FLOAT32, 1.1e-5, 1.0)])[what] is False


def test_the_default_run_measures_every_target_and_every_term():
    rows = [case_row(case.name, case.pairs, 1.0, case.processes) for case in default_plan()]
    assert {row.name for row in rows} >= set(terms)
    errors = list(gradient_errors(pairs=64))
    assert [target.what for target in targets(rows, errors) if target.reached is None] == []


def test_the_default_run_leaves_the_largest_batches_to_us():
    assert {case.name for case in default_plan() if case.pairs > 16384} == {"clip", "siglip"}


def test_gradients_agree_with_float64():
    errors = {(row.term, row.what): row.error for row in gradient_errors(pairs=64)}
    assert errors["clip", FLOAT32] < 1e-5
    assert errors["siglip", FLOAT32] < 1e-5


def test_the_objective_report_shows_targets_and_problems(tmp_path):
    rows = [
        case_row("open_clip.ClipLoss", 4096, 1.0),
        case_row("clip", 4096, 0.5),
        case_row("combination", 4096, 1.2),
        CaseRow("mmd", 4096, problem="out of memory"),
    ]
    page = write_objectives(tmp_path, OBJECTIVES_ABOUT, rows, [GradientError("clip", FLOAT32, 1.21e-6, 1.5)])
    assert page.name == "objectives_some-cpu-r-9000-2-cores_2030-01-31.md"
    text = page.read_text()
    assert "| clip: time of open_clip.ClipLoss, 4096 pairs | 0.50 x | <= 0.57 x | reached |" in text
    assert "| combination: time of clip, 4096 pairs | 2.40 x | <= 2.20 x | **missed** |" in text
    assert "| clip: time of open_clip.ClipLoss, 16384 pairs |  | <= 0.48 x | not measured |" in text
    assert f"| {FLOAT32} | clip | 1.3e-06 | 1.500 |" in text
    assert "- mmd, 4096 pairs: out of memory" in text
    assert OBJECTIVES_ABOUT["command"] in text
    record = json.loads(page.with_suffix(".json").read_text())
    assert record["targets"][0] == {
        "what": "clip: time of open_clip.ClipLoss, 4096 pairs",
        "measured": 0.5,
        "at_most": 0.57,
        "reached": True,
    }


def test_the_accelerator_report_shows_the_largest_batch(tmp_path):
    rows = [
        case_row("open_clip.ClipLoss", 4096, 1e-3),
        case_row("clip", 4096, 5e-4),
        CaseRow("open_clip.ClipLoss", 8192, problem="out of memory"),
        CaseRow("inf_cl", 4096, problem="not installed: inf_cl"),
        case_row("clip", 8192, 2e-3, dtype="bfloat16"),
    ]
    text = write_objectives(
        tmp_path, {**OBJECTIVES_ABOUT, "device": "cuda", "peak_tflops": 1000.0}, rows, []
    ).read_text()
    assert "| clip | float32 | 4096 | 0.50 | 0.50 .. 0.50 | 100 | 0.50 x open_clip.ClipLoss | 20.6 % |" in text
    assert "| open_clip.ClipLoss | float32 | 4096 | out of memory at 8192 |" in text
    assert "| inf_cl | float32 | none | not installed: inf_cl at 4096 |" in text
    assert "| clip | bfloat16 | 8192 | nothing larger was tried |" in text
    assert "## Targets" not in text


def test_a_batch_larger_than_one_out_of_memory_is_not_tried(monkeypatch):
    rows, tried = [], []

    def run(case):
        tried.append(case.pairs)
        return [Cost([], [], 0.0, "out of memory")] if case.pairs == 128 else [Cost([1.0, 2.0, 3.0], [1.0] * 3, 5.0)]

    monkeypatch.setattr(bench_objectives, "run", run)
    for pairs in (64, 128, 256):
        bench_objectives.add(rows, Case("clip", pairs))
    assert tried == [64, 128]
    assert [row.problem for row in rows] == ["", "out of memory", "out of memory"]
    assert rows[0].cpu == [2.0]


@pytest.mark.long
def test_objectives_are_measured_in_processes_of_their_own(tmp_path):
    command = [sys.executable, "-m", "benchmarks.bench_objectives", "--terms", "clip", "dense_uniformity_image"]
    command += ["--pairs", "64", "--rounds", "1", "--to", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert [row["name"] for row in record["rows"]] == ["tile_mm", "tile_addmm", "clip", "dense_uniformity_image"]
    assert all(row["cpu"][0] > 0 and row["wall"][0] > 0 and not row["problem"] for row in record["rows"])
    assert record["command"].endswith("--pairs 64 --terms clip dense_uniformity_image --rounds 1")
    assert str(ROOT) not in json.dumps(record)


@pytest.mark.processes
def test_a_batch_is_spread_over_processes():
    costs = bench_objectives.run(Case("clip", 64, processes=2))
    assert [cost.problem for cost in costs] == ["", ""]
    assert [len(cost.wall) for cost in costs] == [20, 20]


def test_a_case_that_fails_says_why():
    assert "cilp" in bench_objectives.run(Case("cilp", 64))[0].problem


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench_objectives.main(["--device", "cuda"])
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.long
def test_a_soak_keeps_its_promises(tmp_path):
    soak_loader.main(["--epochs", "2", "--workers", "1", "--to", str(tmp_path)])
    (found,) = (json.loads(path.read_text()) for path in tmp_path.glob("soak_*.json"))
    assert [epoch["lost"] for epoch in found["epochs"]] == [0, 0]
    assert set(found["faults"]) == {"bad_caption", "corrupt_image", "empty_caption", "missing_image", "shard_error"}
    assert found["damaged"] > 20


def test_a_soak_that_loses_a_sample_says_so(tmp_path):
    epochs = [soak_loader.Epoch(number, int(number == 3), 100.0 + number, 1.0) for number in range(30)]
    page = soak_loader.report_page(
        {**ABOUT, "samples": 9, "damaged": 1, "workers": 1, "restarts": 0, "faults": {}}, epochs
    )
    assert "| samples lost | 1 | 0 | **broken** |" in page
    assert f"| growth of memory | {percent(soak_loader.growth(epochs))} | <= 5.0 % | **broken** |" in page
