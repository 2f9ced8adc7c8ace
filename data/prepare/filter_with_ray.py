"""`vlp data filter` on a Ray cluster: the machines measure, the first one decides, and the list is the same.

pip install 'ray[data]'
python data/prepare/filter_with_ray.py CARD --to NEW_CARD.yaml --rules RULES.yaml

Every machine needs this package and the shards under the same paths or addresses; the new card's folder is needed on
the first machine alone. With RAY_ADDRESS unset, Ray starts on this machine. More: docs/clusters.md.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data

from vlp.curate.facts.fact_files import FOLDER, FactFiles
from vlp.curate.facts.facts import Fact
from vlp.curate.facts.gather import Measurement, measured_files
from vlp.curate.filter import Filtered, filter_card
from vlp.curate.rules.base import read_rules
from vlp.data import Card
from vlp.data.shards.cards import load_card
from vlp.data.shards.shard import open_shards
from vlp.ground import paths


def filter_on_cluster(card: Card, to: Path, rules: Path, *, gpus: float = 0.0) -> Filtered:
    """Measure what is not measured yet on all machines, then filter here.

    Args:
        gpus: Share of a GPU that each process with a model gets.
    """
    facts = [fact for rule in read_rules(paths.find_file("recipes", str(rules))).values() for fact in rule.facts]
    files = FactFiles(card, to.expanduser().resolve().parent / FOLDER)
    measure(files, [fact for fact in facts if not fact.on_device], gpus=0.0)
    measure(files, [fact for fact in facts if fact.on_device], gpus=gpus)
    return filter_card(card, to, rules)


def measure(files: FactFiles, facts: Sequence[Fact], *, gpus: float) -> None:
    """Measure facts of all shards of a card, a shard at a time on each core or GPU."""
    tasks = [Measurement(files, shard, files.missing(shard, facts)) for shard in open_shards(files.card)]
    rows = [{"task": pickle.dumps(task)} for task in tasks if task.facts]
    if rows:
        shards = ray.data.from_items(rows, override_num_blocks=len(rows))
        for row in shards.flat_map(measure_row, num_cpus=1, num_gpus=gpus).iter_rows():
            files.keep(row["name"], row["content"])


def measure_row(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row per file that holds a fact of the shard."""
    for name, content in measured_files(pickle.loads(row["task"])).items():
        yield {"name": name, "content": content}


def main() -> None:
    """Filter the card named on the command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("card", help="name under data/, or a YAML file")
    parser.add_argument("--to", type=Path, required=True, help="card to write (YAML)")
    parser.add_argument("--rules", type=Path, required=True, help="YAML file of rules")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs per process with a model; default: 0")
    parsed = parser.parse_args()
    print(filter_on_cluster(load_card(parsed.card), parsed.to, parsed.rules, gpus=parsed.gpus))


if __name__ == "__main__":
    main()
