"""Rows of cells as columns: aligned for a terminal, or in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from vlp.ground.files import write_text
from vlp.ground.types import RecipeError

Rows = Sequence[Sequence[str]]
"""The first one is the heading."""
Writers = Mapping[str, Callable[..., str]]
"""Functions that return a table as a text, by the suffix of its file."""


def aligned(rows: Rows, right: Collection[int] = ()) -> list[str]:
    """Return a line for each row, its columns as wide as their widest cell.

    Args:
        right: Places of the columns that stand to the right, as numbers do.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def markdown(rows: Rows, right: Collection[int] = ()) -> str:
    """Return a table of Markdown without a line break at its end.

    Args:
        right: Places of the columns that stand to the right, as numbers do.
    """
    heading, *others = rows
    rule = ["---:" if place in right else "---" for place in range(len(heading))]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (heading, rule, *others)]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def write_table(path: Path, writers: Writers, *told: object) -> None:
    """Write what is told as a table; the suffix of the file says by which writer.

    Raises:
        RecipeError: None of them has that suffix, or the file cannot be written.
    """
    try:
        write_text(path, writer_of(path, writers)(*told))
    except OSError as error:
        raise RecipeError(f"--table {path}: cannot be written ({error})") from error


def writer_of(path: Path, writers: Writers) -> Callable[..., str]:
    """Return what writes a table with the suffix of a file.

    Raises:
        RecipeError: There is none.
    """
    if path.suffix not in writers:
        raise RecipeError(f"--table {path}: end it with one of {', '.join(writers)}")
    return writers[path.suffix]


def interval(low: float | None, high: float | None, sign: str = "") -> str:
    """Return two ends of an interval with four digits; empty where there is none.

    Args:
        sign: `+` shows the sign of positive numbers too.
    """
    return "" if low is None or high is None else f"{low:{sign}.4f} .. {high:{sign}.4f}"


def p10_to_p90(values: Sequence[float], unit: float, form: str) -> str:
    """Return the 10th and the 90th percentile of measurements, which lie within them; a single one is both.

    Args:
        unit: Of the numbers that are shown, in that of the values.
        form: How `format` shows them, such as `.2f`.
    """
    low, *_, high = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else (*values, *values)
    return f"{low / unit:{form}} .. {high / unit:{form}}"
