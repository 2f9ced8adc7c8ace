"""`vlp COMMAND`: a few flags each, settings live in recipes, heavy imports inside the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; mistakes of the user end in one line, not in a traceback."""
    parsed = parse(arguments)
    from vlp.types import RecipeError

    try:
        parsed.command(parsed)
    except RecipeError as error:
        sys.exit(f"vlp: {error}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, in which settings may stand before, between and behind flags."""
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(parsed, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides += rest
    return parsed


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="vlp", description="Vision-language pretraining, from shards to the hub.", allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add in (
        ("train", _train),
        ("eval", _eval),
        ("report", _report),
        ("export", _export),
        ("data", _data),
        ("config", _config),
        ("describe", _describe),
    ):
        _, help_text = add.__doc__.split(": ", 1)  # type: ignore[union-attr]
        add(commands.add_parser(name, help=help_text, description=help_text, allow_abbrev=False))
    return parser


def _train(parser: argparse.ArgumentParser) -> None:
    """train: pretrain a dual encoder from a recipe."""
    parser.add_argument("config", help="recipe: a YAML file, or a name under recipes/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the recipe")
    parser.add_argument("--resume", action="store_true", help="continue the run from its newest whole checkpoint")
    parser.add_argument("--allow-changes", action="store_true", help="resume although settings or data changed")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.config import load_recipe
        from vlp.train import train

        train(load_recipe(parsed.config, parsed.overrides), resume=parsed.resume, allow_changes=parsed.allow_changes)

    parser.set_defaults(command=command)


def _eval(parser: argparse.ArgumentParser) -> None:
    """eval: score a run, a checkpoint, an export or any open_clip model on tasks."""
    parser.add_argument(
        "model", help="run or checkpoint folder, exported folder, hf-hub:ORG/NAME, or NAME:TAG of open_clip"
    )
    parser.add_argument(
        "--tasks", nargs="+", help="names under eval/ or YAML files; default: those of the run's recipe"
    )
    parser.add_argument("--to", type=Path, help="folder for the results (JSON); default: the run folder's evaluations")
    parser.add_argument(
        "--pixels",
        choices=("training", "referee"),
        help="decode images as in training, or as CLIP_benchmark does; default: as each task says (training)",
    )

    def command(parsed: argparse.Namespace) -> None:
        from vlp.evaluate import evaluate_model

        sys.exit(evaluate_model(parsed.model, parsed.tasks, parsed.to, pixels=parsed.pixels))

    parser.set_defaults(command=command)


def _report(parser: argparse.ArgumentParser) -> None:
    """report: write one HTML page about a run."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--to", type=Path, help="HTML file; default: report.html in the run folder")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.report import write_report

        print(write_report(parsed.run, parsed.to))

    parser.set_defaults(command=command)


def _export(parser: argparse.ArgumentParser) -> None:
    """export: write a run's model for open_clip and transformers, compare, and push it on request."""
    parser.add_argument("run", type=Path, help="run or checkpoint folder")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--weights", help="label of the weights, such as ema; default: those the recipe evaluates")
    parser.add_argument("--push", metavar="NAME", help="upload to this repository of the hub afterwards")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.export.hub import push
        from vlp.export.run import export_run

        print(export_run(parsed.run, parsed.to, weights=parsed.weights))
        if parsed.push:
            print(f"pushed to {push(parsed.to, parsed.push)}")

    parser.set_defaults(command=command)


def _data(parser: argparse.ArgumentParser) -> None:
    """data: write shards from images and tables, and check, index, filter, split and look at those of a card."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add in (
        ("pack", _data_pack),
        ("verify", _data_verify),
        ("inspect", _data_inspect),
        ("index", _data_index),
        ("bench", _data_bench),
        ("filter", _data_filter),
        ("split", _data_split),
    ):
        _, help_text = add.__doc__.split(": ", 1)  # type: ignore[union-attr]
        command = commands.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        add(command)
        command.add_argument("--workers", type=int, metavar="N", help="processes; default: one per core")


def _data_pack(parser: argparse.ArgumentParser) -> None:
    """pack: write images and captions as shards with a card; the same command continues an interrupted pack."""
    parser.add_argument(
        "source", type=Path, help="folder of images; CSV, TSV, JSON, JSONL or parquet; or saved dataset of Hugging Face"
    )
    parser.add_argument("--to", type=Path, required=True, help="folder to write; its name becomes the card's")
    parser.add_argument("--split", default="", help="which split of a dataset with several, such as train")
    parser.add_argument(
        "--columns", default="", metavar="image=NAME,caption=NAME", help="columns; default: the usual names"
    )
    parser.add_argument(
        "--limits",
        default="",
        metavar="samples=N,megabytes=N,bad=SHARE",
        help="size of a shard, share of unusable rows; default: samples=10000,megabytes=1000,bad=0.01",
    )

    def command(parsed: argparse.Namespace) -> None:
        from vlp.curate.pack import pack

        settings = {name: getattr(parsed, name) for name in ("columns", "limits", "workers", "split")}
        print(pack(parsed.source, parsed.to, **settings))

    parser.set_defaults(command=command)


def _data_verify(parser: argparse.ArgumentParser) -> None:
    """verify: check counts and checksums of a card, and decode every image and caption; a fault gives status 1."""
    parser.add_argument("card", help="name under data/, or a YAML file")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.curate.verify import verify_card

        verdict = verify_card(parsed.card, workers=parsed.workers)
        print(verdict)
        sys.exit(1 if verdict.findings else 0)

    parser.set_defaults(command=command)


def _data_inspect(parser: argparse.ArgumentParser) -> None:
    """inspect: write one HTML page of a card: images, captions, sizes, duplicates."""
    parser.add_argument("card", help="name under data/, or a YAML file")
    parser.add_argument("--to", type=Path, help="HTML file; default: NAME.html")
    parser.add_argument("--seed", type=int, default=0, help="which images are shown; default: 0")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.curate.inspect import inspect_card

        print(inspect_card(parsed.card, parsed.to, seed=parsed.seed, workers=parsed.workers))

    parser.set_defaults(command=command)


def _data_index(parser: argparse.ArgumentParser) -> None:
    """index: write indices beside a card's shards and a summary beside the card, so that runs start at once."""
    parser.add_argument("card", help="name under data/, or a YAML file")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.curate.index import index_card

        print(index_card(parsed.card, workers=parsed.workers))

    parser.set_defaults(command=command)


def _data_bench(parser: argparse.ArgumentParser) -> None:
    """bench: measure a card's loader alone, and say how many processes a model needs."""
    parser.add_argument("card", help="name under data/, or a YAML file")
    parser.add_argument("--size", type=int, default=224, metavar="PIXELS", help="side of the crops; default: 224")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each setting is measured; default: 5")
    parser.add_argument("--needed", type=float, metavar="RATE", help="samples a second that the model takes")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.curate.bench import bench_card

        speeds = bench_card(parsed.card, image_size=parsed.size, seconds=parsed.seconds, workers=parsed.workers)
        print(speeds)
        if parsed.needed:
            print(speeds.advice(parsed.needed))

    parser.set_defaults(command=command)


def _data_filter(parser: argparse.ArgumentParser) -> None:
    """filter: leave samples out by rules; copies nothing, writes a card that names the samples kept."""
    parser.add_argument("card", help="name under data/, or a YAML file")
    parser.add_argument("--to", type=Path, required=True, help="card to write (YAML)")
    parser.add_argument("--rules", type=Path, required=True, help="YAML file of rules, such as filters/align.yaml")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.curate.filter import filter_card

        print(filter_card(parsed.card, parsed.to, parsed.rules, workers=parsed.workers))

    parser.set_defaults(command=command)


def _data_split(parser: argparse.ArgumentParser) -> None:
    """split: divide a card into parts by a hash of each sample; copies nothing, writes a card per part."""
    parser.add_argument("card", help="name under data/, or a YAML file")
    parser.add_argument("--to", type=Path, required=True, help="folder for the cards")
    parser.add_argument("--shares", required=True, metavar="train=SHARE,val=SHARE", help="parts; their sum is 1")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split; default: 0")
    parser.add_argument(
        "--by",
        choices=("key", "image", "caption"),
        default="key",
        help="what stays in one part: samples of one key, images that look the same, or one caption; default: key",
    )

    def command(parsed: argparse.Namespace) -> None:
        from vlp.curate.split import split_card

        split = split_card(
            parsed.card, parsed.to, parsed.shares, seed=parsed.seed, by=parsed.by, workers=parsed.workers
        )
        print(split)

    parser.set_defaults(command=command)


def _config(parser: argparse.ArgumentParser) -> None:
    """config: print a recipe with everything it inherits, or where each setting comes from."""
    parser.add_argument("recipe", help="recipe: a YAML file, or a name under recipes/")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--sources", action="store_true", help="list the settings given, and the file that gives each")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.config import load_recipe, lock_text, recipe_layers
        from vlp.layers import explain_sources

        recipe = load_recipe(parsed.recipe, parsed.overrides)
        if parsed.sources:
            print("\n".join(explain_sources(recipe_layers(parsed.recipe, parsed.overrides))))
        else:
            print(lock_text(recipe), end="")

    parser.set_defaults(command=command)


def _describe(parser: argparse.ArgumentParser) -> None:
    """describe: list the terms of the objective, or explain one: formula, source, settings, needs."""
    parser.add_argument("term", nargs="?", help="name of a term; default: list all")
    parser.add_argument("--page", action="store_true", help="print all terms as a page of Markdown")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.describe import describe, describe_all, describe_page

        if parsed.page:
            print(describe_page(), end="")
        else:
            print(describe(parsed.term) if parsed.term else describe_all())

    parser.set_defaults(command=command)


if __name__ == "__main__":
    main()
