"""Checkpoints of which each process writes its part: the bits of gathered ones, whole or absent, for any layout."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_processes
from tests.run.test_background_writer import same
from tests.run.test_checkpoint import damage
from tests.run.test_checkpoint_run import losses, steps
from tests.shards import write_shards
from tests.test_sharded import launched
from tests.tiny import tiny_recipe
from vlp.report.reading import _num_parameters
from vlp.run import shards as writing
from vlp.run.assemble import assemble
from vlp.run.checkpoint import Checkpoint, open_checkpoint
from vlp.run.saving import save
from vlp.run.state import restore
from vlp.run.trained_model import load_model_of_run
from vlp.towers.sources import find_weights
from vlp.towers.weight_files import read_tensors
from vlp.train import train

STEP = "step_{:08d}"
ALL_KINDS = ("train.batch_size=12", "checkpoint.every=2", "checkpoint.keep=9", "strategies.ema.decay=0.5",
             "objective.sogclr={}", "objective.swav={num_prototypes: 8}", "model.learn_scale=false",
             "optimizer.decay_towards=start")  # fmt: skip
IN_PARTS = "checkpoint.sharded=true"


def checkpoint_of(run: Path, step: int) -> Checkpoint:
    return open_checkpoint(run / "checkpoints" / STEP.format(step))


def equal(one: Checkpoint, other: Checkpoint, *, but: tuple[str, ...]) -> bool:
    """Whether two checkpoints hold the same bits, in whatever files.

    Args:
        but: Keys that are left out, wherever they are.
    """
    found = [{**each.training(), **{label: each.weights(label) for label in each.labels()}} for each in (one, other)]
    return one.position == other.position and same(*(without(each, but) for each in found))


def without(state: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(state, dict):
        return {key: without(value, keys) for key, value in state.items() if key not in keys}
    return [without(value, keys) for value in state] if isinstance(state, list | tuple) else state


def fail_at(step: int):
    """Return a writer of pieces that fails at one step."""
    write = writing.write_pieces

    def write_pieces(path, *rest):
        if STEP.format(step) in str(path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(path, *rest)

    return write_pieces


def _train(rank, world_size, folder, environment):
    """Train gathering; train in parts, behind the steps, with a disk that fails; resume without the last checkpoint."""
    os.environ.update(environment)
    folder, pattern = Path(folder), f"{folder}/shards/*.tar"
    own = folder / str(rank)
    own.mkdir()
    gathered = losses(train(tiny_recipe(own, pattern, f"runs={folder}/runs", "name=gathered", *ALL_KINDS)))
    recipe = tiny_recipe(own, pattern, f"runs={folder}/runs", IN_PARTS, "checkpoint.background=true", *ALL_KINDS)
    if rank == 1:
        pytest.MonkeyPatch().setattr(writing, "write_pieces", fail_at(2))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = train(recipe)
    before = losses(run)
    if rank == 1:
        damage(run / "checkpoints" / STEP.format(6), "model-00002-of-00002.safetensors")
    with warnings.catch_warnings(record=True) as said_again:
        warnings.simplefilter("always")
        train(recipe, resume=True)
    told = [str(each.message) for each in (*said, *said_again) if "checkpoint" in str(each.message)]
    return gathered, before, losses(run), told


def _pass_on(rank, world_size, folder, environment, step):
    """Load the newest checkpoint and write it again as that of a later step; nothing is computed in between."""
    os.environ.update(environment)
    own = Path(folder) / f"{rank} of {world_size}"
    own.mkdir(exist_ok=True)
    pattern, more = f"{folder}/shards/*.tar", (IN_PARTS, *ALL_KINDS, "train.steps=20")
    run = assemble(tiny_recipe(own, pattern, f"runs={folder}/runs", *more), resume=True, allow_changes=True)
    _, position = restore(run)
    save(run, step=step, position=position)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder / "shards", num_shards=3, samples_per_shard=7)
    return folder, run_processes(_train, 2, str(folder), launched(), timeout=120)


@pytest.mark.processes
def test_parts_hold_what_was_gathered_and_the_run_goes_on_bit_for_bit_over_bad_disks(trained):
    folder, found = trained
    gathered, parts = folder / "runs" / "gathered", folder / "runs" / "tiny"
    one, other = found
    assert one[:3] == other[:3]
    assert one[0] == one[1] and one[2] == one[1]  # step 6, gone, was computed again from step 4
    assert any("no checkpoint at step 2: RuntimeError: process 1: OSError" in said for said in one[3])
    assert any("model-00002-of-00002.safetensors is damaged" in said for said in one[3])
    assert not any("no checkpoint" in said for said in other[3])  # it knows, and one process says it
    assert steps(parts) == [STEP.format(4), STEP.format(6), f"{STEP.format(6)}.damaged"]
    for step in (4, 6):
        assert equal(checkpoint_of(parts, step), checkpoint_of(gathered, step), but=("faults",))
    names = {path.name for path in (parts / "checkpoints" / STEP.format(4)).iterdir()}
    assert {f"{part}-0000{n}-of-00002.safetensors" for part in ("model", "ema", "training.pt") for n in (1, 2)} < names


@pytest.mark.processes
def test_whatever_reads_whole_checkpoints_reads_parts(trained):
    folder, _ = trained
    whole, parts = (folder / "runs" / name / "checkpoints" / STEP.format(4) for name in ("gathered", "tiny"))
    for label in ("model", "ema"):
        one, other = (load_model_of_run(path, label).model.state_dict() for path in (whole, parts))
        assert same(dict(one), dict(other))
    for source in (f"{parts}", f"{parts}/ema.safetensors", f"{folder}/runs/tiny:ema"):  # as model.weights names them
        found = find_weights(source)
        assert read_tensors(found.path).keys() == one.keys() and "ema" in found.name
    assert _num_parameters(parts.parent.parent) == _num_parameters(whole.parent.parent) != {}


@pytest.mark.processes
def test_any_number_of_processes_loads_them_to_the_last_bit(trained):
    """2 -> 3 -> 1 -> 2; one process writes whole files. Rates are of the next step, not of the checkpoint."""
    folder, _ = trained
    run = folder / "runs" / "tiny"
    for step, processes in ((7, 3), (8, 1), (9, 2)):
        run_processes(_pass_on, processes, str(folder), launched(), step, timeout=120)
        assert equal(checkpoint_of(run, step), checkpoint_of(run, 6), but=("lr",)), f"{processes} processes"
    assert (run / "checkpoints" / STEP.format(8) / "model.safetensors").is_file()
    assert (run / "checkpoints" / STEP.format(7) / "ema-00003-of-00003.safetensors").is_file()
