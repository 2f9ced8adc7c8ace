"""What a rule is, and a file of rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from vlp.curate.facts.facts import Fact
from vlp.curate.facts.gather import FactTable
from vlp.ground.explain import explain
from vlp.ground.registry import Registry, settings_of
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml

Flags = NDArray[np.bool_]


class Rule(Protocol):
    """One reason to leave samples out.

    The keyword-only arguments of the class are its settings in a file of rules. Samples that lack one of the facts are
    gone before any rule is asked.

    Args:
        facts: What must be measured of every sample.
    """

    @property
    def facts(self) -> tuple[Fact, ...]: ...

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Say of each sample whether it goes; those that are not alive count for nothing, whatever is said of them."""

    def reason(self, table: FactTable, number: int) -> str:
        """Say in a few words why `drops` sent a sample away."""


rules: Registry[Rule] = Registry("rule", "vlp.curate.rules")


def read_rules(path: Path) -> dict[str, Rule]:
    """Return the rules of a file by label, in its order.

    Args:
        path: YAML, `label: {type: NAME, ...settings}`; the type defaults to the label.

    Raises:
        RecipeError: A mistake; names the file, the key and the nearest valid name.
    """
    found = {label: _build(str(path), label, entry) for label, entry in read_yaml(path).items()}
    if not found:
        raise RecipeError(f"{path}: no rule in it (known: {', '.join(rules)})")
    return found


def _build(where: str, label: str, entry: Any) -> Rule:
    if entry is not None and not isinstance(entry, dict):
        raise RecipeError(f"{where}: {label}: expected settings, as in `{label}: {{...}}` (given: {entry!r})")
    settings = dict(entry or {})
    name = str(settings.pop("type", label))
    try:
        schema = settings_of(rules[name])
        return rules.build(name, dict(schema.model_validate(settings)))
    except ValidationError as error:
        raise RecipeError(explain(error, schema, [(f"{where}: {label}", settings)])) from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {label}: {error}") from error
