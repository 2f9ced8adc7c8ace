"""Names to classes; a class's keyword-only arguments are the schema of its settings."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, create_model

from vlp.ground.strict import Strict
from vlp.ground.types import RecipeError

Registered = TypeVar("Registered")


def nearest(name: str, names: typing.Iterable[str]) -> str:
    """Return a hint such as "; did you mean 'clip'?", or an empty string."""
    found = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


class Registry(Generic[Registered]):
    """The parts of one kind, found by importing every module of a package on first use.

    Args:
        noun: What one entry is called in messages.
        package: The package whose modules register their parts when imported.
    """

    def __init__(self, noun: str, package: str):
        self.noun = noun
        self.package = package
        self._parts: dict[str, type[Registered]] = {}

    def register(self, name: str) -> Callable[[type[Registered]], type[Registered]]:
        """Class decorator: make the class known as `name`."""

        def add(part: type[Registered]) -> type[Registered]:
            if name in self._parts:
                raise ValueError(f"two {self.noun}s are called '{name}'")
            self._parts[name] = part
            return part

        return add

    def __getitem__(self, name: str) -> type[Registered]:
        self._import_all()
        if name not in self._parts:
            raise RecipeError(f"unknown {self.noun} '{name}'{nearest(name, self._parts)} (known: {', '.join(self)})")
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        self._import_all()
        return iter(sorted(self._parts))

    def __len__(self) -> int:
        self._import_all()
        return len(self._parts)

    def build(self, name: str, settings: Mapping[str, Any], *runtime: Any) -> Registered:
        """Create the part `name` from checked settings and positional runtime objects."""
        return self[name](*runtime, **settings)

    def _import_all(self) -> None:
        _import_modules(self.package)


@cache
def _import_modules(package: str) -> None:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


@cache
def settings_of(part: Callable[..., Any]) -> type[BaseModel]:
    """Turn the keyword-only arguments of a class or function into a strict, frozen pydantic model."""
    function = part.__init__ if inspect.isclass(part) else part
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
    return create_model(part.__name__, __config__=Strict.model_config, **fields)
