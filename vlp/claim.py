"""Who owns a run folder: a new run, or the same one going on."""

from __future__ import annotations

from typing import Any

from vlp import checkpoint, dist
from vlp.config import differences, load_card, lock_text
from vlp.provenance import commit, machine, versions
from vlp.recipe import Recipe
from vlp.types import RecipeError
from vlp.yaml import write_yaml


def claim_folder(recipe: Recipe, *, resume: bool, allow_changes: bool) -> None:
    """Create the run folder with its lock, or check that the run in it is the same one."""
    dist.on_main(lambda: _claim(recipe, resume=resume, allow_changes=allow_changes))


def _claim(recipe: Recipe, *, resume: bool, allow_changes: bool) -> None:
    lock = recipe.folder / checkpoint.LOCK
    if lock.exists():
        if not resume:
            raise RecipeError(f"{recipe.folder}: holds a run already: continue it with --resume, or set name=...")
        changed = differences(checkpoint.read_lock(recipe.folder), recipe)
        if changed and not allow_changes:
            raise RecipeError(
                f"{recipe.folder}: the recipe changed since the run started:\n  "
                + "\n  ".join(changed)
                + "\ntake the changes back, or accept them with --allow-changes"
            )
        if not changed:
            return
    recipe.folder.mkdir(parents=True, exist_ok=True)
    provenance = {"commit": commit(), "machine": machine(), "versions": versions(), "data": _checksums(recipe)}
    lock.write_text(lock_text(recipe) + write_yaml({"provenance": provenance}), encoding="utf-8")


def _checksums(recipe: Recipe) -> dict[str, Any]:
    return {label: load_card(source.card).fingerprint for label, source in recipe.data.train.items()}
