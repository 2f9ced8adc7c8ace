"""`vlp mine`: which captions of others a model finds most like each image of a card."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_mine(parser: argparse.ArgumentParser) -> None:
    """mine: find for each image the captions of others that a model takes for its own, to train with as negatives."""
    parser.add_argument("embeddings", type=Path, help="folder of a card's embeddings, images and texts: vlp embed")
    parser.add_argument("data", help="that card: a YAML file, or a name under data/")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--count", type=int, default=5, help="captions for each image; default: %(default)s")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of the nearest; default: %(default)s")
    parser.add_argument(
        "--below",
        type=float,
        metavar="SHARE",
        help="take only captions whose cosine is below this share of that of the image's own, such as 0.95",
    )

    def command(parsed: argparse.Namespace) -> None:
        from vlp.embeddings.mine import mine, summary
        from vlp.ground import dist

        told = mine(parsed.embeddings, parsed.data, parsed.to, count=parsed.count, skip=parsed.skip, below=parsed.below)
        if dist.is_main():
            print(f"{parsed.to}: {summary(told)}")

    parser.set_defaults(command=command)
