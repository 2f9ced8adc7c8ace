"""`vlp merge` and `vlp interpolate`: one model made of several."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_merge(parser: argparse.ArgumentParser) -> None:
    """merge: average the weights of models of one start, with shares, or as a greedy soup."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="run (RUN:LABEL), checkpoint or exported folder, hf-hub:ORG/NAME, NAME:TAG",
    )
    parser.add_argument("--to", type=Path, required=True, help="folder to write, as vlp export does")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--shares", nargs="+", type=float, help="one for each model, relative to each other")
    ways.add_argument(
        "--greedy", metavar="TASK", help="from the best on, add a model unless the score on half of this task falls"
    )

    def command(parsed: argparse.Namespace) -> None:
        from vlp.ground import dist
        from vlp.merging.merge import merge
        from vlp.merging.soup import greedy_soup

        if parsed.greedy:
            report = greedy_soup(parsed.models, parsed.greedy, parsed.to)
        else:
            report = merge(parsed.models, parsed.to, shares=parsed.shares)
        if dist.is_main():
            print(report)

    parser.set_defaults(command=command)
