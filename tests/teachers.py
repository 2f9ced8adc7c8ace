"""A small model on the disk for strategies that bring one, in place of those that recipes name."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from torch.utils._python_dispatch import _disable_current_modes

from tests.towers.tiny import tiny_export
from vlp.recipe.schema import Recipe


@cache
def tiny_teacher() -> str:
    """Return a folder with a model, which is gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="vlp-teacher-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with _disable_current_modes():  # of tests whose tensors have no content
        return str(tiny_export(folder / "export"))


def with_tiny_teachers(recipe: Recipe) -> Recipe:
    """Return a recipe whose teachers are small and at hand."""
    entries = {
        label: entry.model_copy(update={"models": (tiny_teacher(),)}) if entry.type == "teacher" else entry
        for label, entry in recipe.strategies.items()
    }
    return recipe.model_copy(update={"strategies": entries})
