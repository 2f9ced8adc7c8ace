"""What happens to a run whose checkpoints cannot be written, read, or do not fit, on one process and on two."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import vlp.train as training
from tests.processes import run_processes
from tests.run.test_checkpoint import content, damage
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.ground.types import RecipeError, VlpWarning
from vlp.run import checkpoint, saving
from vlp.run.assemble import FIRST_LOSS_SCALE
from vlp.run.checkpoint import LOCK, latest
from vlp.train import train

FULL_DISK = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    return f"{tmp_path}/shards/*.tar"


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, str]]:
    return [(line["step"], line["loss"].hex()) for line in lines(run)]


def steps(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def fail_at(step: int, failure: Exception):
    """Return a writer of weights that fails at one step."""
    write = checkpoint.save_file

    def save_file(weights, path):
        if f"step_{step:08d}" in str(path):
            path.write_bytes(b"half")
            raise failure
        write(weights, path)

    return save_file


@pytest.mark.parametrize("failure", [FULL_DISK, RuntimeError("enforce fail"), MemoryError(), OSError(5, "I/O error")])
def test_a_save_that_fails_is_said_and_the_run_goes_on(tmp_path, shards, monkeypatch, capfd, failure):
    expected = losses(train(tiny_recipe(tmp_path, shards, "name=whole")))
    monkeypatch.setattr(checkpoint, "save_file", fail_at(3, failure))
    run = train(tiny_recipe(tmp_path, shards))
    assert losses(run) == expected
    assert steps(run) == ["step_00000006"]
    assert f"no checkpoint at step 3: {type(failure).__name__}" in capfd.readouterr().err


def test_a_last_save_that_fails_ends_the_run_with_the_way_out(tmp_path, shards, monkeypatch):
    recipe = tiny_recipe(tmp_path, shards)
    monkeypatch.setattr(checkpoint, "save_file", fail_at(6, FULL_DISK))
    with pytest.raises(RecipeError, match=r"no checkpoint at step 6: SafetensorError: .*No space left.*--resume"):
        train(recipe)
    assert steps(recipe.folder) == ["step_00000003"]
    monkeypatch.undo()
    train(recipe, resume=True)
    assert steps(recipe.folder) == ["step_00000003", "step_00000006"]
    assert [line["step"] for line in lines(recipe.folder)] == [1, 2, 3, 4, 5, 6]


def _fail_on_the_first(rank, world_size, folder, shards):
    if rank == 0:
        pytest.MonkeyPatch().setattr(checkpoint, "save_file", fail_at(3, FULL_DISK))
    return losses(train(tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs")))


def _fail_on_the_second(rank, world_size, folder, shards):
    if rank == 1:
        real, calls = saving.get_optimizer_state_dict, []

        def gather(*args, **options):
            calls.append(1)
            if len(calls) == 1:
                raise MemoryError("no room for a copy")
            return real(*args, **options)

        pytest.MonkeyPatch().setattr(saving, "get_optimizer_state_dict", gather)
    return losses(train(tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs")))


@pytest.mark.processes
@pytest.mark.parametrize("where", [_fail_on_the_first, _fail_on_the_second])
def test_two_processes_go_on_after_a_save_that_failed_on_one(tmp_path, shards, where):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    one, other = run_processes(where, 2, str(tmp_path), shards, timeout=120)
    assert one == other
    assert [step for step, _ in one] == [1, 2, 3, 4, 5, 6]
    assert steps(tmp_path / "runs" / "tiny") == ["step_00000006"]


def _read_with_trouble(rank, world_size, folder, shards, own_folders):
    runs = f"{folder}/{rank}/runs" if own_folders else f"{folder}/runs"
    recipe = tiny_recipe(Path(folder) / str(rank), shards, f"runs={runs}", "train.steps=3")
    if not own_folders:
        train(recipe)
    if rank == 1:

        def read_whole(path):
            raise OSError(5, "Input/output error", str(path))

        pytest.MonkeyPatch().setattr(checkpoint, "read_whole", read_whole)  # which refuses a name that is not there
    try:
        train(recipe, resume=True)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "went on"


@pytest.mark.processes
def test_a_checkpoint_that_one_process_cannot_read_stops_all_with_its_words(tmp_path, shards):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    first, second = run_processes(_read_with_trouble, 2, str(tmp_path), shards, False, timeout=120)
    assert first.startswith("RuntimeError: process 1: OSError: [Errno 5] Input/output error")
    assert second.startswith("OSError: [Errno 5] Input/output error")


@pytest.mark.processes
def test_processes_that_see_different_checkpoints_stop(tmp_path, shards):
    """Rank 0 decides what is used; a machine with a disk of its own holds something else or nothing there."""
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    train(tiny_recipe(tmp_path / "0", shards, "train.steps=3"))
    shutil.copytree(tmp_path / "0" / "runs", tmp_path / "1" / "runs")
    damage(tmp_path / "1" / "runs" / "tiny" / "checkpoints" / "step_00000003")
    first, second = run_processes(_read_elsewhere, 2, str(tmp_path), shards, timeout=120)
    assert "process 1: runs/tiny/checkpoints/step_00000003: model.safetensors is damaged" in first
    assert "runs/tiny/checkpoints/step_00000003: model.safetensors is damaged" in second


def _read_elsewhere(rank, world_size, folder, shards):
    os.chdir(Path(folder) / str(rank))
    card = f"data.train={{tiny: {{card: {folder}/0/card.yaml}}}}"
    recipe = tiny_recipe(Path(folder) / str(rank), shards, "runs=runs", "train.steps=3", card)
    lock = Path(folder) / "0" / "runs" / "tiny" / LOCK
    try:
        train(recipe, resume=True, allow_changes=True)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"went on {lock.exists()}"


def test_when_no_checkpoint_is_whole_a_resume_is_refused_and_nothing_is_touched(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    run = train(recipe)
    for folder in (run / "checkpoints").iterdir():
        damage(folder, "training.pt")
    before = content(run)
    with pytest.raises(RecipeError, match=r"not one checkpoint is whole"):
        train(recipe, resume=True)
    assert content(run) == before


def test_what_was_counted_before_a_stop_is_counted_after_it(tmp_path):
    write_shards(tmp_path / "shards", 3, 7, replace={5: [("x.jpg", b"broken"), ("x.txt", b"text")]})
    (tmp_path / "shards" / "00002.tar").write_bytes((tmp_path / "shards" / "00002.tar").read_bytes()[:9000])
    recipe = tiny_recipe(tmp_path, f"{tmp_path}/shards/*.tar")
    run = train(recipe)
    counted = [line["bad_samples"] for line in lines(run)]
    listed = (run / "quarantine.jsonl").read_text().splitlines()
    assert counted[2] >= 2
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    train(recipe, resume=True)
    assert [line["bad_samples"] for line in lines(run)] == counted
    assert (run / "quarantine.jsonl").read_text().splitlines() == listed
    assert len({json.loads(line)["id"] for line in listed}) == len(listed)


MISFITS = [
    ("strategies.second={type: ema}", r"strategies.second: the checkpoint of step 3 has no state of it"),
    ("objective.isogclr={budget: 1.0}", r"objective.isogclr: the checkpoint of step 3 has no state of it"),
    ("objective.siamlip={hidden_width: 8}", r"objective.siamlip: the checkpoint of step 3 has no state of it"),
    ("model.image.width=48", r"model: the checkpoint of step 3 does not fit \(\d+ weights differ: core.visual"),
    ("model.image.layers=2", r"model: the checkpoint of step 3 does not fit \(\d+ weights differ: core.visual"),
    ("train.batch_size=7", r"position 24 lies inside a batch: train.batch_size=7"),
]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_changes_that_do_not_fit_name_the_key_and_leave_the_run_as_it_was(tmp_path, shards, change, message):
    recipe = tiny_recipe(tmp_path, shards, "train.steps=3")
    run = train(recipe)
    before = content(run)
    with pytest.raises(RecipeError, match=message):
        train(tiny_recipe(tmp_path, shards, "train.steps=6", change), resume=True, allow_changes=True)
    assert content(run) == before
    train(recipe, resume=True)
    assert content(run) == before


def test_a_term_and_a_strategy_may_be_taken_out(tmp_path, shards):
    with_more = ("objective.siamlip={hidden_width: 8}", "strategies.second={type: ema}", "train.steps=3")
    run = train(tiny_recipe(tmp_path, shards, *with_more))
    train(tiny_recipe(tmp_path, shards), resume=True, allow_changes=True)
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4, 5, 6]
    assert latest(run).labels() == ["ema", "model"]


def test_an_accepted_change_of_the_optimizer_is_in_force(tmp_path, shards):
    """What a checkpoint holds of an optimizer are its moments; the settings are those of the recipe."""
    length = "train.steps=6"
    run = train(tiny_recipe(tmp_path, shards, "train.steps=3"))
    shutil.copytree(run, tmp_path / "runs" / "slow")
    train(tiny_recipe(tmp_path, shards, length), resume=True, allow_changes=True)
    changes = ("name=slow", "optimizer.learning_rate=0.0", "optimizer.weight_decay=0.0")
    slow = train(tiny_recipe(tmp_path, shards, length, *changes), resume=True, allow_changes=True)
    before = checkpoint.open_checkpoint(slow / "checkpoints" / "step_00000003").weights()
    unchanged, changed = latest(slow).weights(), latest(run).weights()
    assert all(torch.equal(before[name], value) for name, value in unchanged.items())
    assert not all(torch.equal(before[name], value) for name, value in changed.items())
    groups = latest(slow).training()["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.0}


@pytest.mark.parametrize("before", ["float32", "float16"])
def test_a_run_that_goes_on_in_float16_scales_its_loss(tmp_path, shards, before):
    """Without a scale small gradients would be zero; where there was one it goes on from where it was."""

    def guard_after(steps, precision):
        changes = (f"train.steps={steps}", f"train.precision={precision}", "schedule.shape=constant")
        return latest(train(tiny_recipe(tmp_path, shards, *changes), resume=True, allow_changes=True)).training()[
            "safe_step"
        ]

    first = guard_after(3, before)
    found = guard_after(6, "float16")
    skipped = float(found["skipped"]) - (0 if before == "float16" else float(first["skipped"]))
    assert float(found["loss_scale"]) == FIRST_LOSS_SCALE * 0.5**skipped
    assert float(guard_after(8, "float32")["loss_scale"]) == 1


def test_a_run_folder_that_vanishes_is_written_anew_with_its_lock(tmp_path, shards, monkeypatch, capfd):
    recipe = tiny_recipe(tmp_path, shards)
    expected = losses(train(tiny_recipe(tmp_path, shards, "name=whole")))
    write_metrics = training.write_metrics

    def vanish(parts, log, clock, step, *rest):
        if step == 5:
            shutil.rmtree(recipe.runs)
        write_metrics(parts, log, clock, step, *rest)

    monkeypatch.setattr(training, "write_metrics", vanish)
    with pytest.warns(VlpWarning, match="vanished while the run went on"):
        run = train(recipe)
    said = capfd.readouterr().err
    assert "metrics.jsonl cannot be written" in said
    assert "metrics.jsonl is written again" in said
    assert checkpoint.read_lock(run) == recipe
    assert latest(run).step == 6
    assert losses(run) == expected[4:]
    monkeypatch.undo()
    train(recipe, resume=True)
    assert losses(run) == expected[4:]


def test_a_full_disk_loses_no_line_and_ends_no_run(tmp_path, shards, monkeypatch, capfd):
    from vlp.ground import files

    recipe, full, append = tiny_recipe(tmp_path, shards), [True], files._append

    def refuse(path, text):
        if full and b'"step": 4' not in text:
            raise OSError(28, "No space left on device")
        append(path, text)

    monkeypatch.setattr(files, "_append", refuse)
    run = train(recipe)
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    said = capfd.readouterr().err
    assert said.count("metrics.jsonl cannot be written") == 2
    assert f"2 lines of {run / 'metrics.jsonl'} are lost" in said
    full.clear()
    train(recipe, resume=True)


def test_leftovers_of_a_killed_run_go_when_it_goes_on(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    run = train(recipe)
    expected = content(run)
    for place in (run, run / "checkpoints"):
        (place / ".step_00000006.0a1b2c3d.partial").mkdir()
        (place / ".metrics.jsonl.0a1b2c3d.partial").write_text("half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(recipe, resume=True)
    assert content(run) == expected
    assert not list(run.rglob("*.partial"))
