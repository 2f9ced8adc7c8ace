"""Several tasks in one file: a set in many languages, or a protocol that is read in more than one way."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlp.ground import paths
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml

KEY = "variants"
PLACE = "{variant}"
MOST_SHOWN = 8
FILES = (".yaml", ".yml")

Mappings = dict[str, dict[str, Any]]


def read_task(name: str) -> tuple[str, dict[str, Any], str]:
    """Return the name of a task, its mapping without variants, and its file.

    Args:
        name: Of a task under `eval/`, such as `imagenet1k` or, for a variant, `imagenet1k-it`; or a YAML file.

    Raises:
        RecipeError: No such task.
    """
    path, variant = _locate(name)
    mapping = _read(path)
    changes = variants_of(mapping, str(path))
    base = {key: value for key, value in mapping.items() if key != KEY}
    if variant:
        return f"{path.stem}-{variant}", _fill(_merge(base, changes[variant]), variant), str(path)
    if changes and not _is_whole(base):
        raise RecipeError(f"{path} holds no task of its own; name one of {_some(path.stem, changes)}")
    return path.stem, base, str(path)


def variants_of(mapping: Mapping[str, Any], where: str) -> Mappings:
    """Return what each variant of a task changes.

    Args:
        where: The file, for messages.

    Raises:
        RecipeError: They are neither a list of names nor a mapping from names to what changes.
    """
    found = mapping.get(KEY) or {}
    if isinstance(found, list):
        found = dict.fromkeys(found)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise RecipeError(f"{where}: {KEY} must be a list of names, or a mapping from names to keys of the task")
    for name, changes in found.items():
        if not isinstance(changes, dict | None):
            raise RecipeError(f"{where}: {KEY}.{name} must hold keys of the task, such as `data: {{samples: 100}}`")
    return {name: changes or {} for name, changes in found.items()}


def name_in_records(name: str) -> str:
    """Return what records call a task: what `read_task` takes, and of a YAML file its name without ending."""
    return Path(name).stem if Path(name).suffix in FILES else name


def task_names() -> list[str]:
    """Return the name of every task under `eval/`, variants behind the task that they vary."""
    return [name for _, names in families() for name in names]


def families() -> Iterator[tuple[Path, list[str]]]:
    """Yield each file of tasks and the names of the tasks in it; a file that cannot be read has one of its own name."""
    for stem, path in sorted(paths.cards("eval").items()):
        try:
            mapping = _read(path)
            changes = variants_of(mapping, str(path))
        except RecipeError:
            yield path, [stem]
            continue
        whole = [stem] if not changes or _is_whole({key: mapping[key] for key in mapping if key != KEY}) else []
        yield path, [*whole, *(f"{stem}-{variant}" for variant in changes)]


def _read(path: Path) -> dict[str, Any]:
    """Return the mapping in a file, which nobody changes."""
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        stamp = 0  # reading it says what is wrong
    return _parsed(path, stamp)


@functools.lru_cache(maxsize=4096)
def _parsed(path: Path, _stamp: int) -> dict[str, Any]:
    """Parse a file once, until it is written anew: a suite asks for hundreds of names, and YAML is slow."""
    return read_yaml(path)


def _locate(name: str) -> tuple[Path, str]:
    """Return the file of a task, and the variant in it or nothing."""
    if Path(name).suffix in FILES:
        return paths.find_file("eval", name), ""
    known = paths.cards("eval")
    if name in known:
        return known[name], ""
    stems = [stem for stem in known if name.startswith(f"{stem}-")]
    for stem in sorted(stems, key=len, reverse=True):
        changes = variants_of(_read(known[stem]), str(known[stem]))
        variant = name.removeprefix(f"{stem}-")
        if variant in changes:
            return known[stem], variant
        if changes:
            hint = nearest(name, (f"{stem}-{each}" for each in changes))
            raise RecipeError(f"there is no task '{name}'{hint} (there are: {_some(stem, changes)})")
    return paths.find_card("eval", name), ""


def _is_whole(value: Any) -> bool:
    """Say whether a mapping needs no variant to be a task."""
    if isinstance(value, dict):
        return all(_is_whole(each) for each in value.values())
    if isinstance(value, list):
        return all(_is_whole(each) for each in value)
    return not isinstance(value, str) or PLACE not in value


def _fill(value: Any, variant: str) -> Any:
    """Put the name of a variant into every text that has a place for it."""
    if isinstance(value, dict):
        return {key: _fill(each, variant) for key, each in value.items()}
    if isinstance(value, list):
        return [_fill(each, variant) for each in value]
    return value.replace(PLACE, variant) if isinstance(value, str) else value


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with some keys changed: mappings merge, other values replace, null removes."""
    merged = copy.deepcopy(dict(base))
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _some(stem: str, changes: Mappings) -> str:
    names = [f"{stem}-{variant}" for variant in changes]
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return f"{', '.join(names[:MOST_SHOWN])}{more}"
