"""A failure of one process is a failure of all, so that nobody waits forever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vlp import dist
from vlp.types import RecipeError


@contextmanager
def together() -> Iterator[None]:
    """Run the block (which must hold no collective) on every process.

    Raises:
        RecipeError: Another process failed in the block; carries its message. An own failure is raised as it is.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    messages = dist.gather_objects(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    for rank, message in enumerate(messages):
        if message is not None:
            raise RecipeError(f"process {rank}: {message}")
