"""Layers of settings: files that extend each other, overrides on top, and where each value comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp.ground import paths
from vlp.ground.types import RecipeError
from vlp.ground.yaml import parse_yaml, read_yaml

COMMAND_LINE = "command line"  # the name of the last layer
LENGTHS = ("steps", "samples", "epochs")  # of the training
DEFAULT_TYPES = {"optimizer": "adamw"}  # of sections whose type need not be given


@dataclass(frozen=True)
class Layer:
    """One source of settings: a file of the `extends` chain, or the command line."""

    name: str
    settings: dict[str, Any]


def read_layers(path: Path, seen: tuple[Path, ...] = ()) -> list[Layer]:
    """Return the `extends` chain of a recipe, oldest ancestor first."""
    if path in seen:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(map(str, seen))}")
    settings = read_yaml(path)
    settings.pop("provenance", None)  # a lock carries it
    parent = settings.pop("extends", None)
    if parent is None:
        return [Layer(str(path), settings)]
    beside = path.parent / str(parent)
    try:
        found = beside if paths.is_file(beside) else paths.find_card("recipes", str(parent))
    except RecipeError as error:
        raise RecipeError(f"{path}: extends: {error}") from error
    return [*read_layers(found, (*seen, path)), Layer(str(path), settings)]


def override_layer(overrides: Sequence[str]) -> Layer:
    """Turn `key.sub=value` texts into one layer."""
    settings: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise RecipeError(f"override '{text}': write it as key.sub=value")
        settings = merge(settings, nested(key, parse_yaml(value, f"override '{text}'")))
    return Layer(COMMAND_LINE, settings)


def nested(path: str, value: Any) -> dict[str, Any]:
    """Return the mapping in which a value stands at a path such as `train.steps`."""
    first, *rest = path.split(".")
    return {first: nested(".".join(rest), value) if rest else value}


def merge_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge layers, oldest first; a length of the training on the command line takes back those of files."""
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.name == COMMAND_LINE and any(_train(layer.settings).get(key) is not None for key in LENGTHS):
            merged = merge(merged, {"train": dict.fromkeys(LENGTHS)})
        merged = merge(with_default_types(merged), layer.settings)
    return with_default_types(merged)


def with_default_types(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give the sections that have no `type`, as in older recipes, the one that is meant."""
    full = dict(settings)
    for section, name in DEFAULT_TYPES.items():
        if isinstance(full.get(section), Mapping):
            full[section] = {"type": name, **full[section]}
    return full


def _train(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    train = settings.get("train")
    return train if isinstance(train, Mapping) else {}


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; any other value replaces. A null stays, so that it can replace or remove."""
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and _same_type(before, value):
            merged[key] = merge(before, value)
        else:
            merged[key] = value
    return merged


def explain_sources(layers: Sequence[Layer]) -> list[str]:
    """List every setting that a layer gives, as `key = value  (where)` lines; the last layer wins."""
    origin = {key: (value, layer.name) for layer in layers for key, value in leaves(layer.settings).items()}
    kept = leaves(merge_layers(layers))
    origin = {key: given for key, given in origin.items() if key not in kept or kept[key] == given[0]}
    return [f"{key} = {value}  ({where})" for key, (value, where) in sorted(origin.items())]


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return every value of nested mappings by its dotted key."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(leaves(inner, f"{prefix}.{key}" if prefix else str(key)))
    return found


def _same_type(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether both describe the same part; another `type` starts from a clean sheet."""
    return "type" not in new or old.get("type") in (None, new["type"])
