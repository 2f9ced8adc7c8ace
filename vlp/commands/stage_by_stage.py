"""`vlp stages`: several trainings, each against what those before it cannot tell apart."""

from __future__ import annotations

import argparse


def add_stages(parser: argparse.ArgumentParser) -> None:
    """stages: train several times, each time with batches from one group of alike images, and join the models."""
    parser.add_argument("config", help="recipe with one source of pairs: a YAML file, or a name under recipes/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the recipe")
    parser.add_argument("--stages", type=int, default=3, help="trainings; default: %(default)s")
    parser.add_argument("--clusters", type=int, default=10, help="of each stage; default: %(default)s")
    parser.add_argument(
        "--from-previous",
        action="store_true",
        help="start from the weights of the stage before, not as the recipe says",
    )

    def command(parsed: argparse.Namespace) -> None:
        from vlp.ground import dist
        from vlp.stages.run_stages import train_in_stages

        folder = train_in_stages(
            parsed.config,
            parsed.overrides,
            stages=parsed.stages,
            clusters=parsed.clusters,
            from_previous=parsed.from_previous,
        )
        if dist.is_main():
            print(f"{folder}: the stages as one model; vlp eval {folder}")

    parser.set_defaults(command=command)
