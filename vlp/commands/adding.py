"""Commands of a parser: each is a function that adds its flags, named and explained by its docstring."""

from __future__ import annotations

from argparse import ArgumentParser
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
