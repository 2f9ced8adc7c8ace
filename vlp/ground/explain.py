"""One clear line per mistake: the key, where it stands, and the nearest valid name."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError

Model = typing.TypeVar("Model", bound=BaseModel)
Location = tuple[str | int, ...]


def validated(model: type[Model], mapping: Mapping[str, Any], where: str) -> Model:
    """Return settings as a model has them.

    Args:
        where: Their file, for messages.

    Raises:
        RecipeError: An unknown, missing or wrong key; names it.
    """
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        raise RecipeError(explain(error, model, [(where, mapping)])) from error


def explain(error: ValidationError, root: type[BaseModel], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return one line per mistake of a validation.

    Args:
        root: The model that refused.
        layers: Name and settings of each file, oldest first; the newest that gives the key is named.
    """
    lines = []
    for mistake in error.errors():
        keys, names = _follow(root, mistake["loc"])
        where = _origin(layers, keys)
        lines.append(f"{where}: {'.'.join(map(str, keys))}: {_say(dict(mistake), keys, names)}")
    return "\n".join(dict.fromkeys(lines))


def _say(mistake: dict[str, Any], keys: Location, names: Sequence[str]) -> str:
    kind, given = mistake["type"], mistake.get("input")
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(keys[-1]), names)} (known: {', '.join(sorted(names))})"
    if kind == "missing":
        return "is required"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = given.get("type") if isinstance(given, Mapping) else None
        expected = [name.strip(" '") for name in mistake.get("ctx", {}).get("expected_tags", "").split(",")]
        if tag is None:
            return "needs a `type`"
        return f"unknown type '{tag}'{nearest(str(tag), expected)} (known: {', '.join(expected)})"
    told = mistake["msg"][0].lower() + mistake["msg"][1:]
    return f"{told} (given: {given!r})"


def _follow(root: Any, location: Location) -> tuple[Location, Sequence[str]]:
    """Walk an error's location through the models; drop what is no key (union tags, type names)."""
    keys: list[str | int] = []
    options: list[Any] = [root]
    names: list[str] = []
    for step in location:
        tagged = [option for option in options if _is_tag(option, step)]
        if tagged and not any(isinstance(option, type) and _is_field(option, step) for option in options):
            options = tagged
            continue
        inner = [found for option in options for found in _inside(option, step)]
        models = [option for option in options if _is_model(option)]
        if models:
            names = [field for option in models for field in option.model_fields]
        if not inner and not models and not isinstance(step, int):
            continue
        keys.append(step)
        options = inner
    return tuple(keys), names


def _inside(annotation: Any, step: str | int) -> list[Any]:
    """Return what an annotation holds under a key or index, unions taken apart."""
    if _is_model(annotation):
        field = annotation.model_fields.get(str(step))
        return _options(field.annotation) if field else []
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        return _options(inner[1])
    return _options(inner[0]) if origin in (list, tuple) and isinstance(step, int) else []


def _options(annotation: Any) -> list[Any]:
    """Take unions and Annotated apart."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if type(None) in typing.get_args(annotation) or _is_union(annotation):
        return [option for part in typing.get_args(annotation) for option in _options(part)]
    return [annotation]


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_field(annotation: Any, step: str | int) -> bool:
    return _is_model(annotation) and str(step) in annotation.model_fields


def _is_tag(annotation: Any, step: str | int) -> bool:
    if not _is_model(annotation):
        return False
    field = annotation.model_fields.get("type")
    return annotation.__name__ == step or (field is not None and step in typing.get_args(field.annotation))


def _origin(layers: Sequence[tuple[str, Mapping[str, Any]]], keys: Location) -> str:
    """Return the newest layer that gives the key, or else the nearest enclosing one."""
    for depth in range(len(keys), -1, -1):
        for name, settings in reversed(layers):
            value: Any = settings
            for key in keys[:depth]:
                value = value.get(key, _ABSENT) if isinstance(value, Mapping) else _ABSENT
            if value is not _ABSENT:
                return name
    return layers[-1][0]


_ABSENT = object()
