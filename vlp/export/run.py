"""Export what a run has learned, with what is known about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.data.shards.cards import load_card
from vlp.export import LIBRARIES, ExportReport, export_model
from vlp.export.take_in_head import take_in
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml
from vlp.recipe.compose import lock_text
from vlp.recipe.schema import Recipe
from vlp.run.checkpoint import LOCK
from vlp.run.folder import at_width, behind_head, evaluations_of, of_weights
from vlp.run.trained_head import load_head, offers_heads, split_head
from vlp.run.trained_model import is_run, load_model_of_run, split_label
from vlp.towers.load import load_model, split_width


def export_any(
    name: str,
    to: Path,
    *,
    weights: str | None = None,
    width: int | None = None,
    formats: tuple[str, ...] = LIBRARIES,
) -> ExportReport:
    """Export a run or one of its checkpoints, or write anew what open_clip's towers can express.

    Args:
        name: As `vlp eval` takes it: run or checkpoint folder (`RUN:LABEL`, `RUN@HEAD`, `RUN@WIDTH`), exported folder,
            `NAME:TAG` of open_clip, `hf-hub:ORG/NAME`.
        weights: As for `export_run`; of a run alone, as `width`.
        formats: As for `export_model`.

    Raises:
        RecipeError: No such model, the target exists, or the libraries disagree.
    """
    whole, told = split_width(name)
    if width is not None and told is not None:
        raise RecipeError(f"--width {width}: '{name}' tells a width as well: leave one of them out")
    width = told if width is None else width
    run, head = split_head(whole)
    path, label = split_label(run)
    if is_run(path):
        return export_run(path, to, weights=weights or label, width=width, head=head, formats=formats)
    for flag, value in (("--weights", weights), ("--width", width)):
        if value is not None:
            raise RecipeError(f"{flag} {value}: '{name}' is no run, and holds one set of weights: leave the flag out")
    model = load_model(name)
    return export_model(
        model, to, name=to.name, recipe_text="", results=[], data_note="", origins=[f"both towers from {name}"],
        formats=formats,
    )  # fmt: skip


def export_run(
    path: Path,
    to: Path,
    *,
    weights: str | None = None,
    width: int | None = None,
    head: str | None = None,
    formats: tuple[str, ...] = LIBRARIES,
) -> ExportReport:
    """Export the newest whole checkpoint of a run, or one checkpoint folder.

    Args:
        weights: Label of the weights; None takes those that the recipe evaluates.
        width: Export a model whose embeddings are so many first coordinates of the trained one's, for a run whose
            terms have `widths`; its scores are those of `vlp eval RUN@WIDTH`.
        head: Export a model whose projections have taken in a head that is a matrix.
        formats: As for `export_model`.

    Raises:
        RecipeError: No checkpoint, no such weights or head, the target exists, or the libraries disagree.
    """
    if head is not None and width is not None:
        raise RecipeError(f"--width {width}: has no meaning behind a head: leave '@{head}' out")
    trained = load_model_of_run(path, weights, width=width)
    run = trained.checkpoint.path.parent.parent
    part = head if width is None else str(width)
    lost = describe_heads(trained.recipe, head)
    report = export_model(
        trained.model if head is None else take_in(trained, load_head(trained, head), head),
        to,
        name=trained.recipe.name if part is None else f"{trained.recipe.name}-{part}",
        recipe_text=lock_text(trained.recipe),
        results=find_results(run, trained.checkpoint.step, trained.weights, width, head),
        data_note=describe_data(trained.recipe),
        origins=find_origins(run),
        formats=formats,
        further={"Left behind": lost} if lost else {},
    )
    return replace(report, left_behind=lost)


def describe_heads(recipe: Recipe, taken_in: str | None) -> str:
    """Return what heads of a run an export lacks, those of terms included; empty where it lacks none.

    Args:
        taken_in: The one that it has.
    """
    others = [f"{label} ({head.type})" for label, head in recipe.heads.items() if label != taken_in]
    for label, term in recipe.objective.items():
        if offers_heads(recipe, label):
            is_part = taken_in is not None and taken_in.partition(".")[0] == label
            others.append(f"{label} ({term.type}{f' but for {taken_in}' if is_part else ''})")
    return f"the run's heads {', '.join(others)}; `vlp eval RUN@HEAD` looks behind them" if others else ""


def find_results(
    run: Path, step: int, weights: str, width: int | None = None, head: str | None = None
) -> list[dict[str, Any]]:
    """Return the evaluation records of one step, label of weights, width and head; failed tasks are left out."""
    found: dict[str, dict[str, Any]] = {}
    for label in (None, weights):  # of the weights that a run evaluates, and of others
        folder = behind_head(at_width(of_weights(evaluations_of(run, step), label), width), head)
        records = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
        found |= {name: record for name, record in records.items() if record["weights"] == weights}
    return [record for record in found.values() if "error" not in record]


def find_origins(run: Path) -> list[str]:
    """Return what the towers of a run started from, as its lock says."""
    provenance = read_yaml(run / LOCK).get("provenance") or {}
    return [str(line) for line in provenance.get("weights", ())]


def describe_data(recipe: Recipe) -> str:
    """Return one line per source of training pairs: name, size, licence, home."""
    lines = []
    for label, source in recipe.data.train.items():
        try:
            card = load_card(source.card)
        except RecipeError:  # the card may be gone from the machine that exports
            lines.append(f"- {label}")
            continue
        facts = [f"{card.samples:,} pairs" if card.samples else "", card.licence, card.home]
        lines.append(f"- **{card.name}**: " + "; ".join(fact for fact in facts if fact))
    return "\n".join(lines)
