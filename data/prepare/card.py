"""Print a dataset card for WebDataset shards: counts and checksums of what is really there.

Example:
    python data/prepare/card.py embedded --folder data --shards 'embedded/train/*.tar' > card.yaml
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from vlp.data import Card, SampleSet
from vlp.yaml import write_yaml


def main() -> None:
    """Count, hash and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="name of the data set; a card of this name in the folder keeps its other keys")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="folder of the card")
    parser.add_argument("--shards", required=True, help="pattern relative to the folder")
    args = parser.parse_args()
    card = Card(name=args.name, shards=args.shards, folder=args.folder.resolve())
    samples = SampleSet({args.name: card})
    for fault in samples.shard_faults():
        print(f"warning: {fault.shard}: {fault.detail}", file=sys.stderr)
    checksums = {
        str(path.relative_to(card.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in card.paths()
    }
    print(write_yaml({"name": args.name, "shards": args.shards, "samples": len(samples), "sha256": checksums}), end="")


if __name__ == "__main__":
    main()
