"""Who owns a run folder: a new run, or the same one going on with the same recipe and the same data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlp.data import SampleSet
from vlp.data.faults import tidy
from vlp.data.fingerprint import Fingerprint, fingerprints
from vlp.data.mined_captions import ABOUT, KEY
from vlp.data.sample_groups import NUMBERS
from vlp.data.texts import word_lists
from vlp.evaluators.record import evaluated_steps
from vlp.ground import dist, files
from vlp.ground.paths import find_file
from vlp.ground.provenance import commit, machine, versions
from vlp.ground.types import RecipeError, VlpWarning
from vlp.ground.yaml import read_yaml, write_yaml
from vlp.recipe.compose import differences, lock_text
from vlp.recipe.schema import DataSection, Recipe
from vlp.run import checkpoint
from vlp.towers.weights import Loaded

DATA_LOCK = "data.lock.json"
IN_USE = "in_use"  # an empty file that a run holds
PATIENCE = 10.0  # seconds for an earlier process of the same job to end
WORDS = "word lists"  # beside the labels of sources
GROUPS, MINED = "data.groups: ", f"{KEY}: "  # among them
STEP_OF_EVALUATIONS, OF_WEIGHTS = "step_", "weights_"
UNDER_ATTACK, ROBUST_RECORD = "robust", "robust.json"  # beside the records of a step
INTERPOLATION = "interpolation.json"  # scores between the start of a run and its end


@dataclass(frozen=True)
class Claim:
    """A run's right to its folder.

    Args:
        folder: The run folder.
        lock: Content of `recipe.lock.yaml`.
        data: Content of `data.lock.json`.
        is_told: Whether both stand in the folder as they are.
        run_id: What trackers call the run, drawn when it began and the same after every resume.
    """

    folder: Path
    lock: str
    data: str
    is_told: bool
    run_id: str

    def hold(self) -> None:
        """Keep others from training in the folder until this process ends.

        Raises:
            RecipeError: Somebody does.
        """
        try:
            is_ours = files.hold(self.folder / IN_USE, PATIENCE)
        except OSError as error:
            warnings.warn(
                f"{self.folder}: a second process could train in it, for it cannot be held ({error})",
                VlpWarning,
                stacklevel=2,
            )
            return
        if not is_ours:
            raise RecipeError(
                f"{self.folder}: another process trains in it: wait for its end, stop it, or set name=... for a run of "
                "its own"
            )

    def confirm(self) -> None:
        """Make the folder this run's own, and remove what killed writers left in it.

        Raises:
            RecipeError: It cannot be written.
        """
        if not self.is_told:
            try:
                self._write()
            except OSError as error:
                raise RecipeError(
                    f"{self.folder}: cannot be written ({error}); make room, or set runs=FOLDER"
                ) from error
        for listed in self.folder.glob("quarantine*.jsonl"):
            with contextlib.suppress(OSError):  # then nothing can be added to it either, which is said there
                tidy(listed)
        for folder in (self.folder, self.folder / checkpoint.CHECKPOINTS, *self.folder.glob("evaluations/*/")):
            files.remove_leftovers(folder)

    def renew(self) -> None:
        """Claim the folder again where it vanished: what the run holds in memory may be all that is left of it."""
        if (self.folder / checkpoint.LOCK).exists():
            return
        self._write()
        self.hold()
        warnings.warn(
            f"{self.folder} vanished while the run went on: it is written anew; what was in it is lost",
            VlpWarning,
            stacklevel=2,
        )

    def _write(self) -> None:
        files.write_text(self.folder / DATA_LOCK, self.data)
        files.write_text(self.folder / checkpoint.LOCK, self.lock)


def evaluations_of(run: Path, step: int) -> Path:
    """Return where a run keeps what was scored after a step."""
    return run / "evaluations" / f"{STEP_OF_EVALUATIONS}{step:08d}"


def robust_records(run: Path) -> list[Path]:
    """Return the records of attacks on a run, of the earliest step first; those on the weights it evaluates come last
    within a step."""
    record = f"{UNDER_ATTACK}/{ROBUST_RECORD}"
    places = [(*sorted(step.glob(f"{OF_WEIGHTS}*")), step) for step in evaluated_steps(run).values()]
    return [place / record for each in places for place in each if (place / record).is_file()]


def of_weights(evaluations: Path, label: str | None) -> Path:
    """Return where scores of other weights than those that a run evaluates lie; of these for None."""
    return evaluations if label is None else evaluations / f"{OF_WEIGHTS}{label}"


def at_width(evaluations: Path, width: int | None) -> Path:
    """Return where scores of so many first coordinates of the embeddings lie; of all of them for None."""
    return evaluations if width is None else evaluations / f"width_{width}"


def behind_head(evaluations: Path, head: str | None) -> Path:
    """Return where scores behind a head lie; of the model itself for None."""
    return evaluations if head is None else evaluations / f"head_{head}"


def claim_folder(
    recipe: Recipe, samples: SampleSet, weights: Sequence[Loaded] = (), *, resume: bool, allow_changes: bool
) -> Claim:
    """Check that a run folder is free, or that the run in it is the same one; nothing is written yet.

    Args:
        weights: What the towers start from, for the lock.

    Raises:
        RecipeError: Another run, recipe or data; lists what changed.
    """
    return dist.on_main(lambda: _claim(recipe, samples, weights, resume=resume, allow_changes=allow_changes))


def _claim(
    recipe: Recipe, samples: SampleSet, weights: Sequence[Loaded], *, resume: bool, allow_changes: bool
) -> Claim:
    folder, path = recipe.folder, recipe.folder / checkpoint.LOCK
    if not path.exists():
        _check_free(folder)
        data, run_id = _describe_data(recipe, samples, {}), secrets.token_hex(4)
        return Claim(folder, _lock(recipe, data, weights, run_id), _lay_out(data), is_told=False, run_id=run_id)
    if not resume:
        raise RecipeError(f"{folder}: holds a run already: continue it with --resume, or set name=...")
    before = checkpoint.read_lock(folder)
    provenance = read_yaml(path).get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    sums = _told_sums(provenance)
    told = _told_data(folder, sums)
    data = _describe_data(recipe, samples, told)
    known = {
        label: told.get(label) for label in (*before.data.train, WORDS) if sums.get(label) != _sum(data.get(label))
    }
    changed = differences(before, recipe) + _data_changes(known, data)
    if changed and not allow_changes:
        raise RecipeError(
            f"{folder}: the recipe or its data changed since the run started:\n  "
            + "\n  ".join(changed)
            + "\ntake the changes back, or accept them with --allow-changes"
        )
    run_id = str(provenance.get("run", "")) or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    if changed:
        return Claim(folder, _lock(recipe, data, weights, run_id), _lay_out(data), is_told=False, run_id=run_id)
    return Claim(folder, path.read_text(encoding="utf-8"), _lay_out(data | told), is_told=True, run_id=run_id)


def _check_free(folder: Path) -> None:
    """Refuse a folder of checkpoints that nobody knows the recipe of, and one that cannot be written."""
    if any(checkpoint.candidates(folder)):
        raise RecipeError(
            f"{folder}: holds checkpoints, but {checkpoint.LOCK} is missing, so nobody can tell what they were made "
            "from: bring it back, set name=..., or move the folder away"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"runs, name: {folder} cannot be made ({error}); set runs=FOLDER") from error


def _lock(recipe: Recipe, data: Mapping[str, Any], weights: Sequence[Loaded], run_id: str) -> str:
    provenance: dict[str, Any] = {"run": run_id, "commit": commit(), "machine": machine(), "versions": versions()}
    provenance["data"] = _sums(data)
    if weights:
        provenance["weights"] = [str(found) for found in weights]
    return checkpoint.seal(lock_text(recipe) + write_yaml({"provenance": provenance}))


def _describe_data(recipe: Recipe, samples: SampleSet, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of each source, and of further files that decide what is drawn."""
    sources = {label: Fingerprint.from_mapping(told) for label, told in before.items() if label != WORDS}
    found: dict[str, Any] = {label: asdict(each) for label, each in fingerprints(samples, sources).items()}
    return found | {WORDS: _further_files(recipe.data)}


def _further_files(data: DataSection) -> dict[str, str]:
    """Return the checksum of each list of words that is in use, of groups of samples, and of mined captions."""
    augments = [data.captions.augment, *data.text_views.values()]
    used = {name: find_file("data", name) for name in {each.synonym_file for each in augments if each.synonyms}}
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(used.items())}
    if data.groups is not None:
        sums[f"{GROUPS}{data.groups}"] = files.sha256_of(Path(data.groups) / NUMBERS)
    if data.captions.negatives is not None and data.captions.negatives.mined is not None:
        mined = data.captions.negatives.mined
        sums[f"{MINED}{mined}"] = files.sha256_of(Path(mined) / ABOUT)  # which has the checksums of the others
    if data.captions.negatives is not None or any(each.drop_stop_words for each in augments):
        lists = (word_lists.STOP_WORDS, word_lists.ATTRIBUTES, word_lists.RELATIONS, word_lists.OBJECTS)
        plain = json.dumps([sorted(lists[0]), *lists[1:]])
        sums["built-in lists"] = hashlib.sha256(plain.encode()).hexdigest()
    return sums


def _data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List what changed in the data that were there before, as `data.LABEL: what` lines.

    Args:
        before: What was known of those that may have changed; None where nobody knows.
    """
    said = []
    for label, told in before.items():
        if label not in now:  # which is a change of the recipe
            continue
        if told is None:
            said.append(f"data.{label}: changed ({DATA_LOCK} is missing or damaged, so how is not known)")
        elif label == WORDS:
            names = sorted({name for name, _ in told.items() ^ now[label].items()})
            said += [
                f"{'' if name.startswith((GROUPS, MINED)) else 'data.captions: '}{name}: changed" for name in names
            ]
        else:
            changes = Fingerprint.from_mapping(told).changes(Fingerprint.from_mapping(now[label]))
            said += [f"data.{label}: {'; '.join(changes)}"] if changes else []
    return said


def _told_sums(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksum of what was known of each source when the run started."""
    sums = provenance.get("data")
    return dict(sums) if isinstance(sums, dict) else {}


def _told_data(folder: Path, sums: Mapping[str, str]) -> dict[str, Any]:
    """Return what was known of each source when the run started, as far as it is what the lock means."""
    try:
        told = json.loads((folder / DATA_LOCK).read_bytes())
        return {label: known for label, known in told.items() if _sum(known) == sums.get(label)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _sums(data: Mapping[str, Any]) -> dict[str, str]:
    return {label: _sum(known) for label, known in data.items()}


def _sum(known: Any) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _lay_out(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=1) + "\n"
