"""Records of earlier starts that still stand: of the same task, model and data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlp.evaluators.base import Task
from vlp.evaluators.layout import find_root
from vlp.evaluators.record import Record, read_record
from vlp.ground.files import sha256_of
from vlp.ground.paths import find_file
from vlp.ground.types import RecipeError

LISTS = (".txt", ".json", ".yaml", ".yml")


def finished(
    tasks: Sequence[Task], folder: Path, model_checksum: float, configuration: str | None = None
) -> dict[str, Record]:
    """Return the records in a folder that tell what running these tasks would tell.

    Older records say nothing of configurations and shards, and those of sets that lie elsewhere nothing of shards.

    Args:
        model_checksum: That of the weights, as `run_tasks` was told.
        configuration: What the weights are used as, as `run_tasks` was told.
    """
    records = {task.name: read_record(folder / f"{task.name}.json") for task in tasks}
    return {
        task.name: record
        for task in tasks
        if (record := records[task.name]) is not None
        and "error" not in record
        and "unwritten" not in record
        and record.get("task_sha256") == task_sha256(task)
        and record.get("model_checksum") == model_checksum
        and _are_the_same(record.get("configuration"), configuration)
        and _are_the_same(record.get("shards"), shards_tag(task))
        and _read_the_same(record.get("files"), files_beside(task))
    }


def task_sha256(task: Task) -> str:
    """Return a checksum of all that a task says; a task on whole sets has the one it had before there were halves."""
    whole = {"half"} if task.data.half is None else None
    said = {
        "version": task.version,
        "evaluator": task.evaluator,
        "main_metric": task.main_metric,
        "settings": task.settings.model_dump(mode="json"),
        "data": task.data.model_dump(mode="json", exclude=whole),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def files_beside(task: Task) -> dict[str, str]:
    """Return the checksum of each small file that a task reads beside its shards: prompts, names, hierarchies.

    Sets that lie elsewhere are not asked for theirs.
    """
    named = (task.data.class_names, *task.settings.model_dump().values())
    found = {}
    for name in named:
        if isinstance(name, str) and Path(name).suffix in LISTS:
            with suppress(RecipeError, OSError):  # the task will say so
                found[name] = sha256_of(find_file("eval", name))
    if not _is_elsewhere(task):
        with suppress(RecipeError, OSError):
            lists = find_root(task.data.root).lists()
            found |= {name: hashlib.sha256(content).hexdigest() for name, content in lists.items()}
    return found


def shards_tag(task: Task) -> str | None:
    """Return a word that changes with sizes and times of all shards of a set, of the splits that a probe learns from as
    well; none of a set that lies elsewhere, or is not there."""
    if _is_elsewhere(task):
        return None
    try:
        place = find_root(task.data.root)
        paths = place.files()
        told = [(os.path.relpath(path, place.root), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    except (RecipeError, OSError):  # the task will say so
        return None
    return hashlib.sha256(repr(told).encode(errors="surrogateescape")).hexdigest()[:32]


def _is_elsewhere(task: Task) -> bool:
    return "://" in os.path.expandvars(task.data.root)


def _are_the_same(before: str | None, now: str | None) -> bool:
    """Whether a word has not changed; older records have none, nor has what is gone and cannot be read anew."""
    return None in (before, now) or before == now


def _read_the_same(before: Any, now: Mapping[str, str]) -> bool:
    """Whether files have not changed; older records say nothing of them, and what is gone cannot be read anew."""
    return not isinstance(before, dict) or all(before.get(name) == digest for name, digest in now.items())
