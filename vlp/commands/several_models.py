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


def add_interpolate(parser: argparse.ArgumentParser) -> None:
    """interpolate: score models between a start and an end, and write the one that gains much and loses little."""
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="START and END, or a run alone, whose start its lock tells"
    )
    parser.add_argument("--own", nargs="+", metavar="TASK", help="tasks to gain on; default: those of the run's recipe")
    parser.add_argument("--kept", nargs="+", metavar="TASK", help="tasks not to lose; default: its evaluation.kept")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--shares", nargs="+", type=float, help="of END, from 0 to 1; default: 0 0.1 ... 1")
    parser.add_argument(
        "--most-lost",
        type=float,
        metavar="POINTS",
        help="gain most where at most so many points of a hundred are lost; default: the highest mean of both",
    )
    parser.add_argument("--resume", action="store_true", help="take the scores that are there, and choose anew")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.ground import dist
        from vlp.merging.line import SHARES, interpolate

        report = interpolate(
            parsed.models,
            parsed.to,
            own=parsed.own or (),
            kept=parsed.kept or (),
            shares=parsed.shares or SHARES,
            most_lost=parsed.most_lost,
            resume=parsed.resume,
        )
        if dist.is_main():
            print(report)

    parser.set_defaults(command=command)
