"""`vlp data COMMAND`: the flags of what is done with cards and shards; heavy imports inside the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp.commands.adding import add_commands, positive

if TYPE_CHECKING:
    from vlp.data import Card


def add_data_commands(parser: argparse.ArgumentParser) -> None:
    """data: write shards from images and tables, and check, index, filter, split and look at those of a card."""
    adders = (
        *(_data_pack, _data_pack_eval, _data_verify, _data_inspect),
        *(_data_index, _data_bench, _data_filter, _data_split),
    )
    for command in add_commands(parser, adders):
        command.add_argument("--workers", type=int, metavar="N", help="processes; default: one per core")


def _use_card(parser: argparse.ArgumentParser, use: Callable[[Card, argparse.Namespace], None]) -> None:
    """Let a command name a card, which is opened once and handed on."""
    parser.add_argument("card", help="name under data/, or a YAML file")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.data.shards.cards import load_card

        use(load_card(parsed.card), parsed)

    parser.set_defaults(command=command)


def _data_pack(parser: argparse.ArgumentParser) -> None:
    """pack: write images and captions as shards with a card; the same command continues an interrupted pack."""
    _add_source(parser, "samples=10000,megabytes=1000,bad=0.01")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.curate.pack import pack

        print(pack(parsed.source, parsed.to, **_source_settings(parsed)))

    parser.set_defaults(command=command)


def _data_pack_eval(parser: argparse.ArgumentParser) -> None:
    """pack-eval: write images with classes or captions as an evaluation set and its task, for vlp eval."""
    kinds = ("classification", "retrieval", "multilabel", "choice")
    _add_source(parser, "samples=1000,bad=0")
    parser.add_argument(
        "--kind",
        choices=kinds,
        help="default: classification where the source has classes, or a column called label or class, else retrieval",
    )
    parser.add_argument(
        "--as", dest="name", default="test", help="split to write: test, or train for probes; default: test"
    )
    parser.add_argument("--class-names", default="", metavar="FILE", help="a name per line, or WORD-OF-SOURCE tab NAME")
    parser.add_argument("--prompts", default="", metavar="FILE", help="a template per line; default: a photo of a {c}.")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.curate.pack_set import SetOptions, pack_set

        options = SetOptions(parsed.kind, parsed.name, parsed.class_names, parsed.prompts)
        print(pack_set(parsed.source, parsed.to, options, **_source_settings(parsed)))

    parser.set_defaults(command=command)


def _add_source(parser: argparse.ArgumentParser, limits: str) -> None:
    """Add what every pack needs to know.

    Args:
        limits: What holds without `--limits`.
    """
    parser.add_argument(
        "source",
        type=Path,
        help="folder of images; CSV, TSV, JSON, JSONL or parquet; saved dataset of Hugging Face; or a card, NAME.yaml",
    )
    parser.add_argument("--to", type=Path, required=True, help="folder to write; its name becomes that of the data")
    parser.add_argument("--split", default="", help="which split of a dataset with several, such as train")
    parser.add_argument(
        "--configuration", default="", help="which configuration of a clone of the hub with several, such as default"
    )
    parser.add_argument("--encoding", default="", help="of a CSV or TSV that is not UTF-8 or UTF-16, such as cp1252")
    parser.add_argument(
        "--columns", default="", metavar="image=NAME,caption=NAME", help="columns; default: the usual names"
    )
    parser.add_argument(
        "--limits",
        default="",
        metavar=limits,
        help="size of a shard, share of unusable rows; default: as here",
    )


def _source_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    names = ("columns", "limits", "workers", "split", "configuration", "encoding")
    return {name: getattr(parsed, name) for name in names}


def _data_verify(parser: argparse.ArgumentParser) -> None:
    """verify: check counts and checksums of a card, and decode every image and caption; a fault gives status 1."""

    def command(card: Card, parsed: argparse.Namespace) -> None:
        from vlp.curate.verify import verify_card

        verdict = verify_card(card, workers=parsed.workers)
        print(verdict)
        sys.exit(1 if verdict.findings else 0)

    _use_card(parser, command)


def _data_inspect(parser: argparse.ArgumentParser) -> None:
    """inspect: write one HTML page of a card: images, captions, sizes, duplicates."""
    parser.add_argument("--to", type=Path, help="HTML file; default: NAME.html")
    parser.add_argument("--seed", type=int, default=0, help="which images are shown; default: 0")

    def command(card: Card, parsed: argparse.Namespace) -> None:
        from vlp.curate.inspect import inspect_card

        print(inspect_card(card, parsed.to, seed=parsed.seed, workers=parsed.workers))

    _use_card(parser, command)


def _data_index(parser: argparse.ArgumentParser) -> None:
    """index: write indices beside a card's shards and a summary beside the card, so that runs start at once."""

    def command(card: Card, parsed: argparse.Namespace) -> None:
        from vlp.curate.index_shards import index_card

        print(index_card(card, workers=parsed.workers))

    _use_card(parser, command)


def _data_bench(parser: argparse.ArgumentParser) -> None:
    """bench: measure a card's loader alone, and say how many processes a model needs."""
    parser.add_argument("--size", type=int, default=224, metavar="PIXELS", help="side of the crops; default: 224")
    parser.add_argument("--seconds", type=positive, default=5.0, help="how long each setting is measured; default: 5")
    parser.add_argument("--needed", type=positive, metavar="RATE", help="samples a second that the model takes")

    def command(card: Card, parsed: argparse.Namespace) -> None:
        from vlp.curate.bench import bench_card

        speeds = bench_card(card, image_size=parsed.size, seconds=parsed.seconds, workers=parsed.workers)
        print(speeds)
        if parsed.needed:
            print(speeds.advice(parsed.needed))

    _use_card(parser, command)


def _data_filter(parser: argparse.ArgumentParser) -> None:
    """filter: leave samples out by rules; copies nothing, writes a card that names the samples kept."""
    parser.add_argument("--to", type=Path, required=True, help="card to write (YAML)")
    parser.add_argument("--rules", type=Path, required=True, help="YAML file of rules, such as filters/align.yaml")

    def command(card: Card, parsed: argparse.Namespace) -> None:
        from vlp.curate.filter import filter_card

        print(filter_card(card, parsed.to, parsed.rules, workers=parsed.workers))

    _use_card(parser, command)


def _data_split(parser: argparse.ArgumentParser) -> None:
    """split: divide a card into parts by a hash of each sample; copies nothing, writes a card per part."""
    parser.add_argument("--to", type=Path, required=True, help="folder for the cards")
    parser.add_argument("--shares", required=True, metavar="train=SHARE,val=SHARE", help="parts; their sum is 1")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split; default: 0")
    parser.add_argument(
        "--by",
        choices=("key", "image", "caption"),
        default="key",
        help="what stays in one part: samples of one key, images that look the same, or one caption; default: key",
    )

    def command(card: Card, parsed: argparse.Namespace) -> None:
        from vlp.curate.split import split_card

        split = split_card(card, parsed.to, parsed.shares, seed=parsed.seed, by=parsed.by, workers=parsed.workers)
        print(split)

    _use_card(parser, command)
