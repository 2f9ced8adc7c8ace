"""The quickstart benchmark: what it measures, what it asks of open_clip's trainer, and what it writes."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.bench_quickstart import TASKS, again, build_parser, read_scores
from benchmarks.measure import last_line, run_measured, tree_bytes
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
    percent,
    slug,
    target_records,
    write_report,
)
from vlp.config import load_recipe

ABOUT = {
    "date": "2030-01-31",
    "commit": "0123456789ab",
    "machine": "Some CPU (R) 9000, 2 cores",
    "versions": {"torch": "2.15.0"},
    "peer_versions": {"webdataset": "0.2.86"},
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
    assert "| wall time | 10.0 min | 25.0 min (x 2.50) |" in text
    record = json.loads(page.with_suffix(".json").read_text())
    assert len(record["rows"]) == 3
    assert record["commit"] == ABOUT["commit"]


def test_the_report_does_without_a_peer(tmp_path):
    text = write_report(tmp_path, {**ABOUT, "peer_versions": {}}, [row()]).read_text()
    assert "| mean | vlp |\n" in text


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
    from vlp.config import build_model
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
