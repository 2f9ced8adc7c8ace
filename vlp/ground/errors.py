"""What becomes of an error at the door: mistakes of the user and faults of the outside end in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

TRACEBACK = "VLP_TRACEBACK"  # variable that lets errors of the outside show where they were raised


@contextmanager
def said_in_one_line() -> Iterator[None]:
    """Leave the program with one line and status 1, where an error has words that help more than a traceback."""
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("vlp: interrupted")
    except Exception as error:
        from vlp.ground.types import RecipeError  # with torch, which a command line without a command does without

        if isinstance(error, RecipeError):
            sys.exit(f"vlp: {printable(str(error))}")
        if os.environ.get(TRACEBACK) or not is_of_the_outside(error):
            raise
        sys.exit(f"vlp: {printable(one_line(error))} ({TRACEBACK}=1 shows where)")


def is_of_the_outside(error: BaseException) -> bool:
    """Whether a disk, a network, a permission or too little memory raised an error, and no mistake of this program."""
    kinds = (OSError, EOFError, MemoryError, HTTPException)
    # pathlib: before Python 3.13, and where `~somebody` is nobody
    if isinstance(error, RuntimeError) and str(error).startswith(("Symlink loop", "Could not determine home")):
        return True
    return isinstance(error, kinds) or type(error).__name__ in ("SafetensorError", "HfHubHTTPError", "OutOfMemoryError")


def printable(text: str) -> str:
    """Return a text in which no letter moves the cursor or rings: files of strangers are quoted in errors."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else f"\\x{ord(letter):02x}" for letter in text)


def said_by(error: BaseException, most: int | None = None) -> str:
    """Return the words of an error in one line, cut behind so many letters."""
    said = " ".join(str(error).split())
    return said if most is None or len(said) <= most else f"{said[:most]}..."


def one_line(error: BaseException) -> str:
    """Return an error's kind and words in one line."""
    said = said_by(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def first_line(error: BaseException, *, kind: bool = False) -> str:
    """Return the first line of what a library says at length; the kind of the error where it says nothing.

    Args:
        kind: Whether the kind stands before the words.
    """
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    name = type(error).__name__
    return (f"{name}: {said}" if kind else said) if said else name
