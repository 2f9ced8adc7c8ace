"""The arguments of training, for `vlp train` and for `accelerate launch -m vlp.train`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe, its settings, and how a run is gone on with."""
    parser.add_argument("config", help="recipe: a YAML file, or a name under recipes/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the recipe")
    parser.add_argument("--resume", action="store_true", help="continue the run from its newest whole checkpoint")
    parser.add_argument("--allow-changes", action="store_true", help="resume although settings or data changed")


def parse_train(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words behind `-m vlp.train`, where `--config` may stand before the recipe."""
    parser = argparse.ArgumentParser(
        prog="vlp train", description="Pretrain a dual encoder from a recipe.", allow_abbrev=False
    )
    add_train_arguments(parser)
    return parse(parser, [word.removeprefix("--config=") for word in words if word != "--config"])


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, in which settings may stand before, between and behind flags."""
    parsed, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(parsed, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides += rest
    return parsed
