"""`--quick`: a try of the whole way in less than three minutes."""

from __future__ import annotations

import argparse
from typing import Any


def add_quick(parser: argparse.ArgumentParser, **settings: Any) -> None:
    """Give a command line `--quick`, which stands for some of its settings.

    Args:
        settings: By the names that the parsed arguments have.
    """
    words = ", ".join(f"{name.replace('_', ' ')} {_said(value)}" for name, value in settings.items())
    parser.add_argument("--quick", action="store_true", help=f"a try of the whole way in under three minutes: {words}")
    parser.set_defaults(quick_settings=settings)


def settle(parsed: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with what `--quick` stands for."""
    if parsed.quick:
        for name, value in parsed.quick_settings.items():
            setattr(parsed, name, value)
    return parsed


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{number:,} {name}" for name, number in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
