"""`vlp compare`: print which differences between evaluated models are more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlp.evaluators.comparison import compare_folders
from vlp.evaluators.comparison.side_by_side import as_csv, as_json, as_markdown, as_text
from vlp.run.folder import evaluations_of

FORMS = {"text": as_text, "markdown": as_markdown, "csv": as_csv, "json": as_json}


def print_comparison(models: Sequence[str], tasks: Sequence[str] | None = None, form: str = "text") -> int:
    """Compare models from their records and print the table.

    Args:
        models: Folders of records or runs; several joined by commas are training seeds of one model. A run alone whose
            start was scored (`evaluation.before`) is compared with its start.
        tasks: Which tasks; all when absent.
        form: `text`, `markdown`, `csv` or `json`.

    Returns:
        Exit status: 0, or 1 if a task could not be compared.

    Raises:
        RecipeError: Nothing can be compared; says why.
    """
    comparison = compare_folders(_with_start(models), tasks)
    print(FORMS[form](comparison))
    return int(bool(comparison.refused))


def _with_start(models: Sequence[str]) -> Sequence[str]:
    """Put the start of a run before it, where it stands alone."""
    start = evaluations_of(Path(models[0]), 0)
    return [str(start), models[0]] if len(models) == 1 and start.is_dir() else models
