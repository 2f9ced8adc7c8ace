"""A checkpoint is whole to the last bit or is none; only whole ones count; none goes before its successor is safe."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from vlp.ground import files
from vlp.ground.manifest import MANIFEST
from vlp.ground.types import RecipeError, VlpWarning
from vlp.run import checkpoint
from vlp.run.checkpoint import find, latest, open_checkpoint


def save(run: Path, step: int, *, keep: int = 9) -> Path:
    weights = {label: {"a": torch.arange(4.0) + step, "b": torch.ones(2, 2)} for label in ("model", "ema")}
    training = {"optimizer": {"moment": torch.arange(3.0)}, "faults": {"delivered": 8 * step}}
    return checkpoint.save(run, step=step, position=8 * step, weights=weights, training=training, keep=keep).path


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def content(folder: Path) -> dict[str, str]:
    """Return the checksum of every file below a folder."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def damage(folder: Path, name: str = "model.safetensors") -> None:
    flip(folder / name, 8 * ((folder / name).stat().st_size - 1))


def steps_of_name(*steps: int) -> list[str]:
    return [f"step_{step:08d}" for step in steps]


@pytest.mark.parametrize("name", [MANIFEST, "training.pt", "model.safetensors", "ema.safetensors"])
def test_no_flipped_bit_goes_unnoticed(tmp_path, name):
    folder = save(tmp_path, 3)
    path = folder / name
    whole = path.read_bytes()
    every_bit = name == MANIFEST
    bits = range(8 * len(whole)) if every_bit else [8 * byte + byte % 8 for byte in range(len(whole))]
    assert len(bits) > 100
    accepted = []
    for bit in bits:
        flip(path, bit)
        with suppress(RecipeError):
            accepted.append((bit, open_checkpoint(folder)))
        path.write_bytes(whole)
    assert accepted == []
    assert open_checkpoint(folder).step == 3


@pytest.mark.parametrize("end", range(0, 600, 7))
def test_a_torn_manifest_is_no_manifest(tmp_path, end):
    path = save(tmp_path, 3) / MANIFEST
    assert path.stat().st_size > 600
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(RecipeError, match=f"{MANIFEST} is missing or damaged"):
        open_checkpoint(path.parent)


@pytest.mark.parametrize("name", ["training.pt", "model.safetensors", "ema.safetensors", MANIFEST])
def test_a_missing_file_is_named(tmp_path, name):
    folder = save(tmp_path, 3)
    (folder / name).unlink()
    with pytest.raises(RecipeError, match=rf"step_00000003: {name} is missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["teacher.safetensors", "notes.txt", ".hidden"])
def test_a_file_that_nobody_named_is_named(tmp_path, name):
    folder = save(tmp_path, 3)
    (folder / name).write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(RecipeError, match=f"{name} does not belong there"):
        open_checkpoint(folder)
    with pytest.warns(VlpWarning, match=f"neither counted nor removed: .*{name} does not belong"):
        assert open_checkpoint(save(tmp_path, 4)).labels() == ["ema", "model"]


def test_the_manifest_of_another_step_does_not_fit(tmp_path):
    three, four = save(tmp_path, 3), save(tmp_path, 4)
    shutil.copy(three / MANIFEST, four / MANIFEST)
    with pytest.warns(VlpWarning, match="step_00000004: .* is damaged"):
        assert latest(tmp_path).step == 3


def test_a_checkpoint_under_the_name_of_another_step_is_none(tmp_path):
    shutil.copytree(save(tmp_path, 3), tmp_path / "checkpoints" / "step_00000090")
    with pytest.warns(VlpWarning, match="step_00000090: holds the checkpoint of step 3"):
        assert latest(tmp_path).step == 3


class Trap:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


def test_a_pickle_with_the_right_checksum_is_not_loaded_and_the_one_before_is_used(tmp_path):
    save(tmp_path, 3)
    folder = save(tmp_path, 4)
    torch.save({"optimizer": Trap(tmp_path / "trace")}, folder / "training.pt", pickle_module=pickle)
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    del sums[MANIFEST]
    (folder / MANIFEST).write_text(checkpoint._manifest(4, 32, sums))
    with pytest.warns(VlpWarning, match=r"step_00000004: training.pt cannot be loaded"):
        assert latest(tmp_path).step == 3
    assert not (tmp_path / "trace").exists()


def test_an_earlier_format_says_so(tmp_path):
    folder = save(tmp_path, 3)
    (folder / MANIFEST).unlink()
    (folder / "state.json").write_text("{}")
    with pytest.raises(RecipeError, match="written by an earlier version of vlp"):
        open_checkpoint(folder)


def test_a_later_format_says_so(tmp_path):
    folder, known = save(tmp_path, 3), checkpoint.FORMAT_IN_PIECES
    sums = open_checkpoint(folder).sha256
    (folder / MANIFEST).write_text(checkpoint._manifest(3, 24, sums, known + 1))
    with pytest.raises(RecipeError, match=rf"has format {known + 1}, this version of vlp reads {known}"):
        open_checkpoint(folder)


def test_where_no_checkpoint_is_whole_all_are_named_and_the_way_out(tmp_path):
    for folder in [save(tmp_path, step) for step in (3, 6)]:
        damage(folder)
    before = content(tmp_path)
    with pytest.raises(
        RecipeError, match=r"(?s)not one checkpoint is whole.*00000006: .*00000003: .*move .*/checkpoints"
    ):
        latest(tmp_path)
    assert content(tmp_path) == before


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert latest(tmp_path) is None
    (tmp_path / "checkpoints" / "step_00000003_best").mkdir(parents=True)
    assert latest(tmp_path) is None


def test_only_the_newest_stay(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == steps_of_name(4, 5)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_damaged_ones_are_neither_counted_nor_removed(tmp_path, keep):
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    damage(tmp_path / "checkpoints" / "step_00000030")
    damage(tmp_path / "checkpoints" / "step_00000040", MANIFEST)
    with pytest.warns(VlpWarning, match=r"neither counted nor removed: .*step_000000(30|40)"):
        save(tmp_path, 21, keep=keep)
    whole = {1: (21,), 2: (20, 21), 3: (10, 20, 21)}[keep]
    assert names(tmp_path) == sorted(steps_of_name(*whole, 30, 40))
    with pytest.warns(VlpWarning, match="skipped a damaged checkpoint"):
        assert latest(tmp_path).step == 21


def test_strangers_are_neither_counted_nor_removed_and_do_no_harm(tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(save(tmp_path, 20), folder / "step_00000020_best")
    shutil.copytree(folder / "step_00000020", folder / "step_21")
    for name in ("step_00000099", "step_x.txt", "step_00000021.damaged", "step_00000023"):
        (folder / name).write_text("mine")
    (folder / ".step_00000022.partial").write_text("a leftover that is a file")
    (folder / "\u00e9\n").mkdir()
    before = set(names(tmp_path))
    save(tmp_path, 21, keep=1)
    with pytest.warns(VlpWarning, match="moved to"):
        save(tmp_path, 23, keep=1)
    gone = {"step_00000020", ".step_00000022.partial"}
    assert set(names(tmp_path)) == before - gone | {"step_00000023.damaged"}
    assert (folder / "step_00000023.damaged").read_text() == "mine"
    assert latest(tmp_path).step == 23


def test_a_step_that_is_whole_is_not_written_again(tmp_path, monkeypatch):
    save(tmp_path, 3)
    before = content(tmp_path)
    monkeypatch.setattr(checkpoint, "save_file", None)
    assert save(tmp_path, 3, keep=1).name == "step_00000003"
    assert content(tmp_path) == before


def test_older_ones_that_a_killed_save_left_go_when_its_step_is_asked_for(tmp_path):
    for step in (3, 6, 9):
        save(tmp_path, step)
    assert checkpoint.is_saved(tmp_path, 9, keep=2)
    assert names(tmp_path) == steps_of_name(6, 9)
    assert not checkpoint.is_saved(tmp_path, 12, keep=1)
    assert names(tmp_path) == steps_of_name(6, 9)


def test_a_step_that_is_damaged_is_written_again_and_moved_aside(tmp_path):
    folder = save(tmp_path, 3)
    for number in ("", "1"):
        damage(folder)
        damaged = content(folder)
        assert find(tmp_path, 3) is None
        with pytest.warns(VlpWarning, match=f"moved to .*step_00000003.damaged{number}"):
            save(tmp_path, 3)
        assert content(tmp_path / "checkpoints" / f"step_00000003.damaged{number}") == damaged
    assert latest(tmp_path).step == 3


def test_all_is_on_the_disk_before_the_name_and_the_name_before_anything_is_removed(tmp_path, monkeypatch):
    save(tmp_path, 3)
    events = record_file_events(monkeypatch)
    save(tmp_path, 6, keep=1)
    folder = tmp_path / "checkpoints"
    named = next(place for place, (what, _, new) in enumerate(events) if new == folder / "step_00000006")
    partial = events[named][1]
    synced = [path for what, path, _ in events[:named] if what == "fsync"]
    written = ["ema.safetensors", "model.safetensors", "training.pt"]
    assert sorted(path.name for path in synced[:3]) == written
    assert synced[3].name.startswith(f".{MANIFEST}.")
    assert synced[4:] == [partial]
    assert events[named + 1] == ("fsync", folder, None)
    removed = [place for place, (what, old, _) in enumerate(events) if what != "fsync" and old.name == "step_00000003"]
    assert removed and min(removed) > named + 1
    assert names(tmp_path) == steps_of_name(6)


def test_lines_are_on_the_disk_before_the_checkpoint_behind_them(tmp_path, monkeypatch):
    for name in ("metrics.jsonl", "quarantine.jsonl", "quarantine_1.jsonl"):
        (tmp_path / name).write_text("{}\n")
    events = record_file_events(monkeypatch)
    save(tmp_path, 3)
    first = [path for what, path, _ in events[:4] if what == "fsync"]
    assert first == [*sorted(tmp_path.glob("*.jsonl")), tmp_path]


def record_file_events(monkeypatch) -> list[tuple[str, Path, Path | None]]:
    events = []
    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

    def fsync(handle):
        events.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink(), None))
        real["fsync"](handle)

    def renaming(name):
        def rename(old, new, **options):
            events.append((name, Path(old), Path(new)))
            real[name](old, new, **options)

        return rename

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renaming("rename"))
    monkeypatch.setattr(os, "replace", renaming("replace"))
    return events


FAILURES = [
    OSError(28, "No space left on device"),
    SafetensorError("I/O error: No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc]"),
    MemoryError(),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("where", ["checkpoint.save_file", "torch.save", "files.sync", "files.write_text", "os.rename"])
def test_a_write_that_fails_leaves_everything_as_it_was(tmp_path, monkeypatch, where, failure):
    save(tmp_path, 3)
    before = content(tmp_path)
    owner, name = where.split(".")
    calls = []

    def fail(*args, **options):
        calls.append(1)
        for path in args:
            if isinstance(path, Path) and name in ("save_file", "save"):
                path.write_bytes(b"half of ")
        raise failure

    monkeypatch.setattr({"checkpoint": checkpoint, "torch": torch, "files": files, "os": os}[owner], name, fail)
    with pytest.raises(type(failure)):
        save(tmp_path, 6, keep=1)
    assert calls
    assert content(tmp_path) == before
    assert names(tmp_path) == steps_of_name(3)
    monkeypatch.undo()
    save(tmp_path, 6, keep=1)
    assert names(tmp_path) == steps_of_name(6)


def test_what_a_killed_save_left_goes_with_the_next(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files, "remove", lambda path: None)
        patch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            save(tmp_path, 3)
    assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(".step_00000003.")
    save(tmp_path, 3)
    assert names(tmp_path) == steps_of_name(3)


def test_an_old_checkpoint_that_cannot_be_removed_does_not_fail_the_save(tmp_path, monkeypatch):
    save(tmp_path, 3)
    real = os.rename

    def rename(old, new):
        if Path(old).name == "step_00000003":
            raise PermissionError(13, "Permission denied")
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.warns(VlpWarning, match="step_00000003: cannot be removed"):
        assert save(tmp_path, 6, keep=1).name == "step_00000006"
    assert names(tmp_path) == steps_of_name(3, 6)


def test_a_lock_with_a_flipped_bit_is_the_same_or_is_refused(tmp_path):
    from tests.tiny import tiny_recipe
    from vlp.recipe.compose import lock_text

    recipe = tiny_recipe(tmp_path, "shards/*.tar")
    path = tmp_path / checkpoint.LOCK
    path.write_text(checkpoint.seal(lock_text(recipe)))
    assert checkpoint.read_lock(tmp_path) == recipe
    whole = path.read_bytes()
    changed = []
    places = [*range(0, len(whole) - 110, 37), *range(len(whole) - 110, len(whole))]
    for byte in places:
        flip(path, 8 * byte + byte % 7)
        with suppress(RecipeError):
            changed += [byte] if checkpoint.read_lock(tmp_path) != recipe else []
        path.write_bytes(whole)
    assert changed == []


def test_the_manifest_is_plain_json(tmp_path):
    told = json.loads((save(tmp_path, 3) / MANIFEST).read_text())
    assert (told["step"], told["position"]) == (3, 24)
    assert sorted(told["sha256"]) == ["ema.safetensors", "model.safetensors", "training.pt"]
