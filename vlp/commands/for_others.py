"""Commands that hand a model on: `vlp export` and `vlp push`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_export(parser: argparse.ArgumentParser) -> None:
    """export: write a model for open_clip and transformers, compare, and push it on request."""
    parser.add_argument("model", help="run or checkpoint folder, or what vlp eval takes: NAME:TAG, an exported folder")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--weights", help="label of the weights, such as ema; default: those the recipe evaluates")
    parser.add_argument("--width", type=int, metavar="N", help="export the first N coordinates of the embeddings alone")
    parser.add_argument("--adapters", action="store_true", help="write LoRA adapters alone, in the format of peft")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=("open_clip", "transformers", "onnx"),
        help="what to write for; default: open_clip and transformers, or a pair of ONNX files where neither can",
    )
    parser.add_argument("--push", metavar="NAME", help="upload to this repository of the hub afterwards")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.export import LIBRARIES
        from vlp.export.as_peft import export_adapters
        from vlp.export.hub import push
        from vlp.export.run import export_any

        if parsed.adapters and parsed.formats:
            parser.error("--formats: --adapters writes for peft alone: leave one of them out")
        if parsed.adapters:
            print(f"{export_adapters(Path(parsed.model), parsed.to, weights=parsed.weights)}: adapters that peft loads")
        else:
            formats = tuple(parsed.formats or LIBRARIES)
            print(export_any(parsed.model, parsed.to, weights=parsed.weights, width=parsed.width, formats=formats))
        if parsed.push:
            print(f"pushed to {push(parsed.to, parsed.push)}")

    parser.set_defaults(command=command)


def add_push(parser: argparse.ArgumentParser) -> None:
    """push: upload an exported folder to the hub; the same command again completes an upload that broke off."""
    parser.add_argument("folder", type=Path, help="exported folder")
    parser.add_argument("name", metavar="NAME", help="repository on the hub: ORG/NAME")
    parser.add_argument("--private", action="store_true", help="create it for members alone")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to upload to, made if it is not there")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.export.hub import push

        print(f"pushed to {push(parsed.folder, parsed.name, private=parsed.private, revision=parsed.revision)}")

    parser.set_defaults(command=command)
