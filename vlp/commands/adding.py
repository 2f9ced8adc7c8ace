"""Commands of a parser, each a function that adds its flags, named and explained by its docstring; numbers of flags."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable


def add_commands(parser: ArgumentParser, adders: Iterable[Callable[[ArgumentParser], None]]) -> list[ArgumentParser]:
    """Add commands and return their parsers.

    Args:
        adders: Their docstrings say `NAME: what the command does`.
    """
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    added = []
    for add in adders:
        name, said = (add.__doc__ or "").split(": ", 1)
        added.append(commands.add_parser(name, help=said, description=said, allow_abbrev=False))
        add(added[-1])
    return added


def positive(word: str) -> float:
    """Return the number that a flag gives.

    Raises:
        ArgumentTypeError: It is none, not above 0, or infinite.
    """
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"'{word}' is no number above 0")
    return number
