"""`vlp COMMAND`: a few flags each, settings live in recipes, heavy imports inside the commands."""

from __future__ import annotations

import argparse
import atexit
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlp.commands.adding import add_commands
from vlp.commands.caption_images import add_caption
from vlp.commands.data import add_data_commands
from vlp.commands.for_others import add_export, add_push
from vlp.commands.machines import add_bench, add_doctor, add_plan
from vlp.commands.mining import add_mine
from vlp.commands.several_models import add_interpolate, add_merge
from vlp.commands.stage_by_stage import add_stages
from vlp.commands.under_attack import add_robust
from vlp.ground.errors import said_in_one_line
from vlp.recipe.arguments import add_train_arguments, parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; mistakes of the user end in one line, not in a traceback."""
    parsed = parse(build_parser(), arguments)
    atexit.register(gc.freeze)  # to look for garbage in all of torch when all is done takes a second
    with said_in_one_line():
        parsed.command(parsed)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="vlp", description="Vision-language pretraining, from shards to the hub.", allow_abbrev=False
    )
    parser.add_argument("--version", action=_Version, help="show the version, the commit and the libraries, and leave")
    added = add_commands(
        parser,
        (
            _train,
            _eval,
            add_robust,
            _compare,
            _report,
            _embed,
            add_mine,
            add_caption,
            _agree,
            add_export,
            add_merge,
            add_interpolate,
            add_stages,
            add_push,
            add_data_commands,
            _list,
            _config,
            _describe,
            _from_open_clip,
            add_plan,
            add_bench,
            add_doctor,
        ),
    )
    parser.set_defaults(commands=tuple(each.prog.rpartition(" ")[2] for each in added))
    return parser


def _train(parser: argparse.ArgumentParser) -> None:
    """train: pretrain a dual encoder from a recipe."""
    add_train_arguments(parser)

    def command(parsed: argparse.Namespace) -> None:
        from vlp.train import train_recipe

        train_recipe(parsed.config, *parsed.overrides, resume=parsed.resume, allow_changes=parsed.allow_changes)

    parser.set_defaults(command=command)


def _eval(parser: argparse.ArgumentParser) -> None:
    """eval: score runs, checkpoints, exports or any open_clip model on tasks and suites of tasks."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="model",
        help="run or checkpoint folder, exported folder, hf-hub:ORG/NAME, or NAME:TAG of open_clip; with @WIDTH behind "
        "it, the first coordinates of its embeddings alone",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        help="names under eval/, suites under eval/suites/, or YAML files; default: those of the run's recipe",
    )
    parser.add_argument("--to", type=Path, help="folder for the results (JSON); default: the run folder's evaluations")
    parser.add_argument("--resume", action="store_true", help="take the results that are there, run what is missing")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="write the main metrics to a .md, .csv or .json file"
    )
    parser.add_argument(
        "--pixels",
        choices=("training", "referee"),
        help="decode images as in training, or as CLIP_benchmark does; default: as each task says (training)",
    )

    parser.add_argument(
        "--against", metavar="FILE", help="published numbers to hold the scores against: results/published.yaml"
    )

    def command(parsed: argparse.Namespace) -> None:
        from vlp.evaluate import evaluate_models

        sys.exit(
            evaluate_models(
                parsed.models,
                parsed.tasks,
                parsed.to,
                pixels=parsed.pixels,
                resume=parsed.resume,
                table_file=parsed.table,
                against=parsed.against,
            )
        )

    parser.set_defaults(command=command)


def _embed(parser: argparse.ArgumentParser) -> None:
    """embed: write the embeddings of a data set to files; started again, it goes on where it was stopped."""
    parser.add_argument("model", help="what vlp eval takes")
    parser.add_argument("data", nargs="+", help="data card: a YAML file, or a name under data/; several with --views")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--sides", nargs="+", choices=("images", "texts"), default=["images", "texts"])
    parser.add_argument("--format", choices=("parquet", "npy"), default="parquet")
    parser.add_argument("--type", choices=("float16", "float32"), default="float16")
    parser.add_argument(
        "--views", type=int, metavar="N", help="embed what a training sees in its first N epochs, for a stored teacher"
    )
    parser.add_argument(
        "--recipe", nargs="+", metavar="RECIPE", help="with --views: the training, and key=value settings"
    )

    def command(parsed: argparse.Namespace) -> None:
        from vlp.embeddings.embed import embed
        from vlp.ground import dist
        from vlp.ground.types import RecipeError

        if parsed.views is not None or parsed.recipe:
            _embed_views(parsed)
            return
        if len(parsed.data) > 1:
            raise RecipeError(f"vlp embed takes one data card, and {len(parsed.data)} are named; several with --views")

        done, left_out = embed(
            parsed.model, parsed.data[0], parsed.to, sides=parsed.sides, file_format=parsed.format, kind=parsed.type
        )
        if dist.is_main():
            listed = f", {left_out} could not be read: {parsed.to / 'faults.jsonl'}" if left_out else ""
            print(f"{done} samples embedded in {parsed.to}{listed}")

    parser.set_defaults(command=command)


def _embed_views(parsed: argparse.Namespace) -> None:
    from vlp.embeddings.embed_views import embed_views
    from vlp.ground import dist
    from vlp.ground.types import RecipeError
    from vlp.recipe.compose import load_recipe

    if parsed.views is None or not parsed.recipe:
        raise RecipeError("--views and --recipe belong together: how many epochs, and of which training")
    recipe = load_recipe(parsed.recipe[0], parsed.recipe[1:])
    views = embed_views(parsed.model, parsed.data, parsed.to, recipe, epochs=parsed.views, kind=parsed.type)
    if dist.is_main():
        print(f"{views:,} views embedded in {parsed.to}")


def _agree(parser: argparse.ArgumentParser) -> None:
    """agree: say how alike two models are: distance of weights, CKA, drift of embeddings, and what both find first."""
    parser.add_argument("first", help="what vlp eval takes (RUN:ema for averages), or a folder that vlp embed wrote")
    parser.add_argument("second", help="another of the same kind")
    parser.add_argument("--data", metavar="CARD", help="data card that both models embed; default: weights alone")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.embeddings.model_agreement import agree
        from vlp.ground import dist

        found = agree(parsed.first, parsed.second, parsed.data)
        if dist.is_main():
            print(found)

    parser.set_defaults(command=command)


def _compare(parser: argparse.ArgumentParser) -> None:
    """compare: say which differences between evaluated models are more than chance."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="folder of records or run; A1,A2,A3: training seeds of one model; a run alone: with its start",
    )
    parser.add_argument("--tasks", nargs="+", help="only these; default: all that every model was scored on")
    forms = parser.add_mutually_exclusive_group()
    for form in ("markdown", "csv", "json"):
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=f"print {form}")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.commands.compare_models import print_comparison

        sys.exit(print_comparison(parsed.models, parsed.tasks, parsed.form or "text"))

    parser.set_defaults(command=command)


def _report(parser: argparse.ArgumentParser) -> None:
    """report: write one HTML page about a run."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--to", type=Path, help="HTML file; default: report.html in the run folder")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="compare with what `vlp plan --to FILE` expected")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.report import write_report

        print(write_report(parsed.run, parsed.to, plan=parsed.plan))

    parser.set_defaults(command=command)


def _list(parser: argparse.ArgumentParser) -> None:
    """list: what there is: recipes, tasks, suites of tasks, attacks, cards, models with their weights, runs."""
    parser.add_argument("what", choices=("recipes", "tasks", "suites", "attacks", "cards", "models", "runs"))
    parser.add_argument("part", nargs="?", default="", help="only names that contain this")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.commands.listing import list_things

        print("\n".join(list_things(parsed.what, parsed.part)))

    parser.set_defaults(command=command)


def _from_open_clip(parser: argparse.ArgumentParser) -> None:
    """from-open-clip: write a recipe and cards for a command line of open_clip's trainer, and say what differs."""
    parser.add_argument("--to", type=Path, default=Path(), help="folder to write; default: this one")
    parser.add_argument("--processes", type=int, metavar="N", help="started by the command, where it does not say")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command, or its flags alone")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.commands.from_open_clip import write_translation

        words = parsed.words[1:] if parsed.words[:1] == ["--"] else parsed.words
        print(write_translation(words, parsed.to, parsed.processes))

    parser.set_defaults(command=command)


class _Version(argparse.Action):
    """Print the versions, which takes imports that other commands do without."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any):
        super().__init__(option_strings, dest, nargs=0, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from vlp.ground.provenance import commit, versions

        found = dict(versions())
        print(f"vlp {found.pop('vlp')} ({commit()})")
        print("\n".join(f"{name} {version}" for name, version in found.items()))
        parser.exit()


def _config(parser: argparse.ArgumentParser) -> None:
    """config: print a recipe with everything it inherits, or where each setting comes from."""
    parser.add_argument("recipe", help="recipe: a YAML file, or a name under recipes/")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--sources", action="store_true", help="list the settings given, and the file that gives each")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.recipe.compose import load_recipe, lock_text, recipe_layers
        from vlp.recipe.layers import explain_sources

        recipe = load_recipe(parsed.recipe, parsed.overrides)
        if parsed.sources:
            print("\n".join(explain_sources(recipe_layers(parsed.recipe, parsed.overrides))))
        else:
            print(lock_text(recipe), end="")

    parser.set_defaults(command=command)


def _describe(parser: argparse.ArgumentParser) -> None:
    """describe: list what can stand in a recipe, a task, a card or a file of rules, or explain a part or a setting."""
    parser.add_argument("name", nargs="?", help="a part, a section or a setting (train.batch_size); default: list all")
    parser.add_argument("--search", metavar="WORD", help="list the parts and settings whose documentation has a word")
    pages = ("terms", "reference", "from-open-clip", "tasks")
    parser.add_argument("--page", choices=pages, help="print a page of Markdown: docs/PAGE.md")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.commands.reference import PAGES, describe, list_all, search

        if parsed.page:
            print(PAGES[parsed.page](), end="")
        elif parsed.search:
            print(search(parsed.search))
        else:
            print(describe(parsed.name, parsed.commands) if parsed.name else list_all())

    parser.set_defaults(command=command)


if __name__ == "__main__":
    main()
