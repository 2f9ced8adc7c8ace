"""Leave samples out of a card by rules; nothing is copied: a new card names what is kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlp.curate.facts.fact_files import FOLDER
from vlp.curate.facts.gather import FactTable, gather
from vlp.curate.rules.base import Rule, read_rules
from vlp.curate.subset import check_target, write_subset
from vlp.data import Card
from vlp.ground import paths
from vlp.ground.files import write_text
from vlp.ground.types import RecipeError

EXAMPLES = 10


@dataclass(frozen=True)
class Example:
    """A sample that a rule dropped."""

    id: int
    shard: str
    key: str
    caption: str
    reason: str


@dataclass(frozen=True)
class Step:
    """What one rule dropped."""

    rule: str
    dropped: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Filtered:
    """What a filter did.

    Args:
        samples: Samples that the source card uses.
        unusable: Those that no rule can judge, by reason.
    """

    source: str
    card: Path
    report: Path
    samples: int
    kept: int
    unusable: dict[str, int]
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        recipe = f"in a recipe: 'data.train={{{self.card.stem}: {{card: {self.card}}}}}'"
        return f"{self.table()}\nexamples in {self.report}\n{recipe}"

    def table(self) -> str:
        """Return one line per reason."""
        rows = [(self.samples, f"samples of {self.source}")]
        rows += [(-count, f"unusable: {reason}") for reason, count in self.unusable.items()]
        rows += [(-step.dropped, step.rule) for step in self.steps]
        rows.append((self.kept, f"kept, {self.kept / self.samples:.1%}"))
        return "\n".join(f"{count:14,d}  {what}" for count, what in rows)


def filter_card(card: Card, to: Path, rules: Path, *, workers: int | None = None) -> Filtered:
    """Apply rules one after the other, each to what those before it left, and write a card of the rest.

    What was measured of a shard is kept beside the card, so that the same command continues after an interruption, and
    other settings read nothing again.

    Args:
        to: The new card.
        rules: A file of rules.
        workers: Processes; all cores when absent.

    Raises:
        RecipeError: A mistake in the card or the rules, an interruption, or nothing is left.
    """
    target = check_target(card, to)
    wanted = read_rules(paths.find_file("recipes", str(rules)))
    facts = [fact for rule in wanted.values() for fact in rule.facts]
    try:
        table = gather(card, facts, target.parent / FOLDER, workers)
        before = table.used
        faults = table.faults(facts)
        alive, steps = _apply(wanted, table, before & (faults == ""))
    except KeyboardInterrupt as error:
        raise RecipeError("interrupted; the same command continues where it stopped") from error
    found = Filtered(
        card.name,
        target,
        target.with_suffix(".report.json"),
        int(before.sum()),
        int(alive.sum()),
        dict(sorted(Counter(faults[before & (faults != "")].tolist()).items())),
        tuple(steps),
    )
    if not found.kept:
        raise RecipeError(f"nothing is left of card '{card.name}':\n{found.table()}")
    write_subset(card, target, alive, table.shards, f"filter {card.name} by {', '.join(wanted)}")
    write_text(found.report, json.dumps(asdict(found), indent=1, default=str, ensure_ascii=False) + "\n")
    return found


def _apply(rules: dict[str, Rule], table: FactTable, alive: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], list[Step]]:
    steps = []
    for label, rule in rules.items():
        gone = rule.drops(table, alive) & alive
        alive = alive & ~gone
        numbers = np.flatnonzero(gone)
        spread = np.unique(np.linspace(0, len(numbers) - 1, EXAMPLES).astype(np.int64)) if len(numbers) else numbers
        examples = tuple(_example(rule, table, int(number)) for number in numbers[spread])
        steps.append(Step(label, len(numbers), examples))
    return alive, steps


def _example(rule: Rule, table: FactTable, number: int) -> Example:
    view = table.view(number)
    return Example(number, table.shard_name(number), view.key, view.caption, rule.reason(table, number))
