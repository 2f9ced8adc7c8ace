"""Checkpoints that are either whole or absent: written beside, synced, renamed; older ones go last."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlp.ground import files
from vlp.ground.errors import first_line
from vlp.ground.files import sha256_of
from vlp.ground.manifest import MANIFEST, lay_out_manifest, read_manifest
from vlp.ground.pieces import joined, pieces_of, read_whole, whole_name
from vlp.ground.provenance import versions
from vlp.ground.types import RecipeError, VlpWarning
from vlp.recipe.compose import check_recipe
from vlp.recipe.layers import read_layers
from vlp.recipe.schema import Recipe
from vlp.recipe.start import CHECKPOINTS, LOCK

TRAINING, MODEL = "training.pt", "model"
WEIGHTS = ".safetensors"
SEAL = b"# sha256 of the lines above: "
FORMAT, FORMAT_IN_PIECES = 2, 3
STEP_FOLDER = re.compile(r"step_(\d{8,})")
BEFORE_MANIFESTS = "state.json"  # what the first format called its list of files, which nothing protected


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Args:
        path: Its folder.
        step: Optimizer steps done.
        position: Samples of the whole job consumed.
        sha256: The checksum of each of its files.
    """

    path: Path
    step: int
    position: int
    sha256: Mapping[str, str]

    def weights(self, label: str = MODEL) -> dict[str, Tensor]:
        """Return the weights called `label` (`model`, or the label of a strategy such as `ema`)."""
        return read_whole(self.path / f"{label}{WEIGHTS}")

    def training(self) -> dict[str, Any]:
        """Return optimizer, strategy and guard state; only tensors and plain values can be in it."""
        state: dict[str, Any] = torch.load(self.path / TRAINING, map_location="cpu", weights_only=True)
        path = self.path / f"{TRAINING}{WEIGHTS}"
        return joined(state, read_whole(path)) if pieces_of(path) else state

    def labels(self) -> list[str]:
        """Return the labels of all weights in it."""
        names = {whole_name(name) for name in self.sha256 if name.endswith(WEIGHTS)}
        return sorted(name.removesuffix(WEIGHTS) for name in names - {f"{TRAINING}{WEIGHTS}"})

    def check(self) -> None:
        """Compare the folder with the checksums, byte by byte, and see that its files can be loaded.

        Raises:
            RecipeError: A file is missing, damaged, or none of the checkpoint's; names it.
        """
        found = {file.name for file in self.path.iterdir()} - {MANIFEST}
        for name in sorted(self.sha256.keys() | found):
            if name not in self.sha256:
                raise RecipeError(f"{self.path}: {name} does not belong there (its {MANIFEST} does not name it)")
            if not (self.path / name).is_file():
                raise RecipeError(f"{self.path}: {name} is missing")
            if sha256_of(self.path / name) != self.sha256[name]:
                raise RecipeError(f"{self.path}: {name} is damaged (its checksum differs)")
        for name in self.sha256:
            _check_content(self.path / name)


def save(
    run: Path,
    *,
    step: int,
    position: int,
    weights: Mapping[str, Mapping[str, Tensor]],
    training: Mapping[str, Any],
    keep: int,
    spare: int | None = None,
) -> Checkpoint:
    """Write a checkpoint of the run, and then drop all whole ones but the newest `keep`.

    A step whose checkpoint is whole already is not written again. Nothing is removed before the new one is on the disk.

    Args:
        run: The run folder.
        step: Optimizer steps done.
        position: Samples consumed by the whole job.
        weights: Weights by label; `model` is always among them.
        training: What a resume needs beside weights.
        keep: Complete checkpoints that stay.
        spare: Step of one more that stays.

    Raises:
        Exception: Whatever a writer raises; what it wrote is removed, older checkpoints are as they were.
    """
    final = folder_of(run, step)
    sync_lines(run)
    written = find(run, step) or _write(final, step, position, weights, training)
    rotate(run, written, keep, spare)
    return written


def folder_of(run: Path, step: int) -> Path:
    """Return where the checkpoint of a step belongs."""
    return run / CHECKPOINTS / f"step_{step:08d}"


def find(run: Path, step: int) -> Checkpoint | None:
    """Return the checkpoint of a step if it is there and whole."""
    try:
        return _open_candidate(folder_of(run, step))
    except RecipeError:
        return None


def is_saved(run: Path, step: int, keep: int, spare: int | None = None) -> bool:
    """Whether the checkpoint of a step is whole; if so, drop the older ones, as its writer may have been killed."""
    found = find(run, step)
    if found is not None:
        rotate(run, found, keep, spare)
    return found is not None


def latest(run: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint of a run, None where there is not even a damaged one; say which ones are.

    Raises:
        RecipeError: There are checkpoints, and none of them is whole.
    """
    problems = []
    for path in candidates(run):
        try:
            found = _open_candidate(path)
        except RecipeError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"skipped a damaged checkpoint: {problem}", VlpWarning, stacklevel=2)
        return found
    if problems:
        raise RecipeError(
            f"{run}: not one checkpoint is whole:\n  "
            + "\n  ".join(problems)
            + f"\nbring a whole one back, or move {run / 'checkpoints'} away to start from the first step again"
        )
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Check every byte of a checkpoint.

    Raises:
        RecipeError: Something is missing or damaged; names it.
    """
    if (path / BEFORE_MANIFESTS).exists() and not (path / MANIFEST).exists():
        raise RecipeError(
            f"{path}: written by an earlier version of vlp ({BEFORE_MANIFESTS}, no {MANIFEST}); train anew"
        )
    try:
        manifest = read_manifest(path / MANIFEST)
        found = Checkpoint(path, int(manifest["step"]), int(manifest["position"]), dict(manifest["sha256"]))
        if manifest["format"] not in (FORMAT, FORMAT_IN_PIECES):
            raise RecipeError(f"{path}: has format {manifest['format']}, this version of vlp reads {FORMAT_IN_PIECES}")
        found.check()
    except RecipeError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecipeError(f"{path}: {MANIFEST} is missing or damaged ({error})") from error
    return found


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is meant as a checkpoint, whole or not."""
    return bool(STEP_FOLDER.fullmatch(path.name)) or (path / MANIFEST).is_file()


def read_lock(run: Path) -> Recipe:
    """Return the recipe that a run folder was made from."""
    path = run / LOCK
    if not path.is_file():
        said = f"{LOCK} is missing" if run.is_dir() else "there is no such folder; see vlp list runs"
        raise RecipeError(f"{run}: is no run folder ({said})")
    above, sealed, told = path.read_bytes().rpartition(SEAL)
    if sealed and told.strip() != hashlib.sha256(above).hexdigest().encode():
        raise RecipeError(f"{path}: changed since it was written; bring it back, or delete its last line to trust it")
    return check_recipe(read_layers(path))


def seal(lock: str) -> str:
    """Return the text of a lock with a last line by which `read_lock` sees whether it is still the same."""
    return f"{lock}{SEAL.decode()}{hashlib.sha256(lock.encode()).hexdigest()}\n"


def _write(
    final: Path,
    step: int,
    position: int,
    weights: Mapping[str, Mapping[str, Tensor]],
    training: Mapping[str, Any],
) -> Checkpoint:
    """Write a checkpoint beside, and give it its name once all of it is on the disk."""
    partial = begin(final)
    try:
        for label, values in weights.items():
            save_file({name: value.contiguous() for name, value in values.items()}, partial / f"{label}{WEIGHTS}")
        torch.save(dict(training), partial / TRAINING)
        sums = {file.name: sha256_of(file) for file in sorted(partial.iterdir())}
        for name in sums:
            files.sync(partial / name)
        return complete(partial, final, step, position, sums)
    finally:
        files.remove(partial)


def begin(final: Path) -> Path:
    """Make the folder, beside its place, in which a checkpoint is put together."""
    final.parent.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(final.parent)
    partial = files.beside(final)
    partial.mkdir()
    return partial


def complete(
    partial: Path, final: Path, step: int, position: int, sums: Mapping[str, str], version: int = FORMAT
) -> Checkpoint:
    """Give a checkpoint, whose files are on the disk, its manifest and its name.

    Args:
        sums: The checksum of each file.
    """
    files.write_text(partial / MANIFEST, _manifest(step, position, sums, version))
    if os.path.lexists(final):
        _put_aside(final)
    partial.rename(final)
    files.sync_folder(final.parent)
    return Checkpoint(final, step, position, sums)


def sync_lines(run: Path) -> None:
    """Wait until metrics and quarantine are on the disk: a resume goes on behind the lines of this step."""
    grown = sorted(run.glob("*.jsonl"))
    for path in grown:
        files.sync(path)
    if grown:
        files.sync_folder(run)


def rotate(run: Path, written: Checkpoint, keep: int, spare: int | None) -> None:
    """Drop whole checkpoints but the newest `keep` and the spared one; others are not ours to count or to remove."""
    spared = written.path if spare is None else folder_of(run, spare)
    whole = []
    for path in candidates(run):
        try:
            whole.append(written.path if path == written.path else _open_candidate(path).path)
        except RecipeError as error:
            _say_once(f"neither counted nor removed: {error}")
    for old in whole[keep:]:
        if old not in (written.path, spared):
            _drop(old)


def _drop(old: Path) -> None:
    """Remove a checkpoint, under another name: one that is half removed would pass for a damaged one."""
    leftover = files.beside(old)
    try:
        old.rename(leftover)
    except OSError as error:
        _say_once(f"{old}: cannot be removed ({error})")
    files.remove(leftover)


def candidates(run: Path) -> list[Path]:
    """Return checkpoint folders, newest first."""
    folder = run / CHECKPOINTS
    steps = {path: STEP_FOLDER.fullmatch(path.name) for path in (folder.iterdir() if folder.is_dir() else ())}
    found = [(int(name[1]), path) for path, name in steps.items() if name and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def _open_candidate(path: Path) -> Checkpoint:
    found = open_checkpoint(path)
    if path.name != folder_of(Path(), found.step).name:
        raise RecipeError(f"{path}: holds the checkpoint of step {found.step}")
    return found


def _put_aside(damaged: Path) -> None:
    """Make room for a checkpoint where a damaged one has its name, without removing anything."""
    names = (damaged.with_name(f"{damaged.name}.damaged{number or ''}") for number in range(1_000))
    free = next(path for path in names if not path.exists())
    damaged.rename(free)
    warnings.warn(f"{damaged.name} was damaged and is written again: moved to {free}", VlpWarning, stacklevel=2)


def _manifest(step: int, position: int, sums: Mapping[str, str], version: int = FORMAT) -> str:
    values = {"format": version, "step": step, "position": position, "sha256": dict(sums), "versions": versions()}
    return lay_out_manifest(values)


def _check_content(path: Path) -> None:
    """Refuse what has the right checksum and yet cannot be loaded: somebody else's weights, or a pickle of code."""
    try:
        if path.suffix == WEIGHTS:
            with safe_open(path, framework="pt"):
                pass
        elif path.name == TRAINING:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of bytes that anybody may have written
        raise RecipeError(f"{path.parent}: {path.name} cannot be loaded ({first_line(error)})") from error


@cache
def _say_once(text: str) -> None:
    warnings.warn(text, VlpWarning, stacklevel=3)
