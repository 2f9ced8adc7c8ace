"""A folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlp.export.checksums import write_checksums
from vlp.ground.types import RecipeError


def check_free(to: Path) -> None:
    """Refuse a place that is taken.

    Raises:
        RecipeError: It is.
    """
    if to.exists():
        raise RecipeError(f"'{to}' exists already: choose another folder, or remove it")


@contextmanager
def whole_folder(to: Path) -> Iterator[Path]:
    """Lend a folder to write in; at the end it gets checksums and its name, or is gone where something went wrong.

    Raises:
        RecipeError: The place is taken.
    """
    check_free(to)
    work = to.with_name(f".{to.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        write_checksums(work)
        for path in work.glob("*.safetensors"):
            path.chmod(0o644)  # safetensors writes files that only their owner can read
        work.rename(to)
    finally:
        shutil.rmtree(work, ignore_errors=True)
