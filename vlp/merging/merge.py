"""`vlp merge`: one model whose weights are the mean of several, with equal shares or others."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlp.export import ExportReport, export_model
from vlp.export.whole_folder import check_free
from vlp.ground import dist
from vlp.ground.tabular import aligned, markdown
from vlp.ground.types import RecipeError
from vlp.merging.contributors import Contributor, data_of, open_contributor, origins_of
from vlp.merging.same_model import Build, build_of, check_same_model
from vlp.run.launch import join_evaluation
from vlp.towers.drift import weight_drift
from vlp.towers.dual import DualEncoder
from vlp.towers.weight_average import WeightAverage

RECORD = "merge.json"
UNRELATED = 1.0
"""Relative distance of weights (`weight_drift`) that models of one start hardly reach; others have about 1.4."""


@dataclass
class Blend:
    """Models that are added to an average one after the other; no more than the sum and one of them is in memory.

    Args:
        rows: What was added: the model, its share, and how far it lies from the average of those before it.
    """

    average: WeightAverage = field(default_factory=WeightAverage)
    rows: list[tuple[Contributor, float, float | None]] = field(default_factory=list)
    build: Build | None = None

    def check(self, contributor: Contributor, model: DualEncoder) -> None:
        """Refuse a model that is none of the kind of the first.

        Raises:
            RecipeError: It differs; says in what.
        """
        build = build_of(contributor.name, model)
        self.build = self.build or build
        check_same_model(self.build, build)

    def add(self, contributor: Contributor, model: DualEncoder, share: float = 1.0) -> None:
        """Add a model.

        Raises:
            RecipeError: It is of another kind than the first, or its weights are not finite.
        """
        self.check(contributor, model)
        weights = model.state_dict()
        apart = weight_drift(self.average.mean(), weights)["weight_drift"] if self.rows else None
        self.average.add(weights, share, name=contributor.name)
        self.rows.append((contributor, share, apart))

    def table(self) -> list[tuple[str, str, str, str]]:
        """Return a row for each model, under a heading."""
        rows = [
            (
                f"{share / self.average.total:.4f}",
                contributor.name,
                "" if apart is None else f"{apart:.3g}",
                contributor.sha256,
            )
            for contributor, share, apart in self.rows
        ]
        return [("share", "model", "distance", "SHA-256 of its weights"), *rows]

    def notes(self) -> list[str]:
        """Return what a reader should know of the average, a sentence each."""
        found = ["distance: |w - w'| / |w| from the average of the models above it"] if len(self.rows) > 1 else []
        far = [contributor.name for contributor, _, apart in self.rows if apart is not None and apart > UNRELATED]
        found += [
            f"{name} is as far from the others as unrelated models are: their average is of no use" for name in far
        ]
        return found + ([] if self.build is None else self.build.notes())

    def record(self) -> dict[str, Any]:
        """Return what stands in the JSON file beside the weights."""
        rows = [
            {
                "model": contributor.name,
                "share": share / self.average.total,
                "sha256": contributor.sha256,
                "distance": apart,
            }
            for contributor, share, apart in self.rows
        ]
        return {"models": rows, "notes": self.notes()}


@dataclass(frozen=True)
class MergeReport:
    """What was written, and of what."""

    export: ExportReport
    table: Sequence[Sequence[str]]
    notes: Sequence[str]

    def __str__(self) -> str:
        short = [row[:-1] for row in self.table]  # checksums stand in the card
        return "\n".join([*aligned(short, right=(0, 2)), *self.notes, str(self.export)])


def merge(names: Sequence[str], to: Path, *, shares: Sequence[float] | None = None) -> MergeReport:
    """Average models, with equal shares or others, and write the result as `vlp export` does.

    With equal shares this is the uniform soup of Wortsman et al. 2022 (arXiv:2203.05482).

    Args:
        names: Two models or more, as `vlp eval` takes them.
        to: Folder to write.
        shares: One for each model, relative to each other.

    Raises:
        RecipeError: The folder exists, no such model, shares that make no mean, or models of different kinds.
    """
    join_evaluation()
    return dist.on_main(partial(_merge, names, to, _shares(names, shares)))


def _merge(names: Sequence[str], to: Path, shares: Sequence[float]) -> MergeReport:
    check_free(to)
    found = Blend()
    model: DualEncoder | None = None
    for name, share in tqdm(list(zip(names, shares, strict=True)), desc="models", file=sys.stderr):
        model = None  # before the next is in memory
        contributor, model = open_contributor(name)
        found.add(contributor, model, share)
    assert model is not None
    return write_merge(found, model, to)


def _shares(names: Sequence[str], shares: Sequence[float] | None) -> Sequence[float]:
    if len(names) < 2:
        raise RecipeError("a merge needs two models or more: name another")
    if shares is None:
        return [1.0] * len(names)
    if len(shares) != len(names):
        raise RecipeError(f"--shares: {len(shares)} for {len(names)} models: give one for each")
    if not all(0 < share < float("inf") for share in shares):
        raise RecipeError(f"--shares: {' '.join(map(str, shares))}: each must be a positive number")
    return shares


def write_merge(
    found: Blend,
    model: DualEncoder,
    to: Path,
    *,
    results: Sequence[Mapping[str, Any]] = (),
    how: str = "The weighted mean of the weights of these models, computed in float64.",
    more: Mapping[str, Any] | None = None,
) -> MergeReport:
    """Write an average as an export whose card says of what it is made.

    Args:
        model: Any of its kind; takes the averaged weights.
        results: Evaluation records of the average.
        how: What the card says of the choice of models and shares.
        more: What else stands in the JSON file.
    """
    model.load_state_dict(found.average.mean())
    table, notes = found.table(), found.notes()
    made = [how, markdown(table, right=(0, 2)), *(f"- {note}" for note in notes)]
    contributors = [contributor for contributor, _, _ in found.rows]
    report = export_model(
        model.cpu(),
        to,
        name=to.name,
        recipe_text="",
        results=results,
        data_note=data_of(contributors),
        origins=origins_of(contributors),
        further={"Made of": "\n\n".join(made)},
        files={RECORD: found.record() | dict(more or {})},
    )
    return MergeReport(report, table, notes)
