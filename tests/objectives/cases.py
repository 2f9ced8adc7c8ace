"""Every term with its defaults and with the variants that its own test file lists."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from tests.narrow import narrow
from tests.objectives.batches import DIM, VOCABULARY
from vlp.ground.registry import settings_of
from vlp.objectives.base import Term, terms

Settings = dict[str, Any]
SIZE = 12


def _listed(name: str, kind: str) -> list[tuple[str, Settings]]:
    """Return `VARIANTS`, `ONE_TOWER` or `NO_TOWER` of a term's test file."""
    return [
        (name, settings) for settings in getattr(importlib.import_module(f"tests.objectives.test_{name}"), kind, [])
    ]


CASES = [case for name in terms for case in [(name, {}), *_listed(name, "VARIANTS")]]
ONE_TOWER = [case for name in terms for case in _listed(name, "ONE_TOWER")]
"""Cases whose gradient reaches one tower only."""
NO_TOWER = [case for name in terms for case in _listed(name, "NO_TOWER")]
"""Cases whose gradient reaches no embedding: what they read comes from both towers on another way."""


def for_each(cases: list[tuple[str, Settings]]) -> pytest.MarkDecorator:
    """Run a test once for each case."""
    return pytest.mark.parametrize(("name", "settings"), cases, ids=[f"{name}-{settings}" for name, settings in cases])


each_term = for_each(CASES)


def build(name: str, settings: Settings) -> Term:
    """Build a term, narrow where nothing is said, with parameters of its own, if it has some, in float64."""
    term = terms.build(name, narrow(settings_of(terms[name])()) | settings)
    torch.manual_seed(0)
    term.fit_vocabulary(VOCABULARY)
    term.create(DIM)
    return term.double() if any(True for _ in term.parameters()) else term


def chosen_places(items: list[Any], module: str) -> list[int]:
    """Return the places in `CASES` of those that the chosen tests of a module ask for: one term's, mostly, or all."""
    asked = [item.callspec.params for item in items if item.module.__name__ == module and hasattr(item, "callspec")]
    return sorted({CASES.index((case["name"], case["settings"])) for case in asked if "settings" in case})
