"""How a section of a recipe is made: strict, and out of the settings of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from vlp.ground.registry import Registry, settings_of
from vlp.ground.strict import Strict


class Section(Strict):
    """A part of the recipe: unknown keys are errors, values never change."""


def one_of(registry: Registry[Any], **extra: Any) -> Any:
    """Return the type of `{type: NAME, ...settings of NAME}`, plus fields that every entry has.

    An entry may have `defaults` of its own for these.
    """
    specs: list[Any] = []
    for name in registry:
        part: Any = registry[name]
        own: Mapping[str, Any] = getattr(part, "defaults", {})
        fields: dict[str, Any] = {"type": (Literal[name], name), **extra}
        fields |= {key: (extra[key][0], default) for key, default in own.items()}
        specs.append(create_model(name, __base__=settings_of(part), **fields))
    return Annotated[reduce(or_, specs), Field(discriminator="type")]


def fields_of(section: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of a section as further fields of another."""
    return {name: (each.annotation, each) for name, each in section.model_fields.items()}
