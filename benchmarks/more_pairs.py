"""`--more CARD`: a proof on the shipped pairs and a card beside them, such as the medium set of data/README.md."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_more(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    told = "a card whose pairs are seen beside the shipped ones, such as that of data/prepare/icons.py"
    parser.add_argument("--more", type=Path, metavar="CARD", help=told)


def more_settings(parsed: Any) -> tuple[str, ...]:
    """Return what a training is told of the card, if there is one."""
    return () if parsed.more is None else (f"data.train.{parsed.more.stem}={{card: {parsed.more}}}",)


def theme_with_more(theme: str, parsed: Any) -> str:
    """Return what the report is called: the card's name follows its theme."""
    return theme if parsed.more is None else f"{theme}-{parsed.more.stem}"


def words_of_more(parsed: Any) -> str:
    """Return the sentence of a report about the card."""
    return "" if parsed.more is None else f" `{parsed.more.stem}` is seen beside the shipped pairs."
