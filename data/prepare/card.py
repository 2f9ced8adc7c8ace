"""Fill in a dataset card: count the samples of its shards, and hash them.

Write a card with `name` and `shards` (and what else you know), then:
    python data/prepare/card.py data/my-photos.yaml
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from ruamel.yaml import YAML

from vlp.data import Card, SampleSet


def fill_in(path: Path) -> Card:
    """Write `samples` and `sha256` into a card, leaving its other keys and comments; counts unkept samples too."""
    yaml = YAML()
    yaml.width = 120
    mapping = yaml.load(path)
    known = {key: value for key, value in mapping.items() if key not in ("samples", "sha256", "keep")}
    card = Card.from_mapping(known, path)
    samples = SampleSet({card.name: card})
    for fault in samples.shard_faults():
        print(f"warning: {fault.shard}: {fault.detail}", file=sys.stderr)
    mapping["samples"] = len(samples)
    mapping["sha256"] = {_name(shard, card.folder): _hash(shard) for shard in card.paths()}
    yaml.dump(mapping, path)
    return Card.from_mapping(mapping, path)


def _name(shard: Path, folder: Path) -> str:
    return str(shard.relative_to(folder) if shard.is_relative_to(folder) else shard)


def _hash(shard: Path) -> str:
    with shard.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Fill in the cards named on the command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("cards", nargs="+", type=Path, help="YAML files")
    for path in parser.parse_args().cards:
        card = fill_in(path)
        print(f"{path}: {card.samples} samples in {len(card.sha256)} shards")


if __name__ == "__main__":
    main()
