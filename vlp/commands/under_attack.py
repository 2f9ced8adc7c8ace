"""`vlp robust`: what is left of a model under attack."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_robust(parser: argparse.ArgumentParser) -> None:
    """robust: attack a model, say what is left of it, and fail where that number cannot be believed."""
    parser.add_argument("model", help="what vlp eval takes")
    parser.add_argument(
        "--tasks", nargs="+", help="names under eval/, suites, or YAML files; default: those of the run's recipe"
    )
    parser.add_argument(
        "--attacks",
        default="standard",
        metavar="NAME",
        help="a file under eval/attacks/, or a YAML file; default: standard",
    )
    parser.add_argument("--to", type=Path, help="folder for the record; default: the run folder's evaluations")
    parser.add_argument("--resume", action="store_true", help="take the attacks that are done, run what is missing")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the numbers to a .md, .csv or .json file")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.robust.attack_model import attack_model

        sys.exit(
            attack_model(
                parsed.model, parsed.tasks, parsed.attacks, parsed.to, resume=parsed.resume, table_file=parsed.table
            )
        )

    parser.set_defaults(command=command)
