"""`vlp compare`: print which differences between evaluated models are more than chance."""

from __future__ import annotations

from collections.abc import Sequence

from vlp.evaluators.comparison import compare_folders
from vlp.evaluators.comparison.side_by_side import as_csv, as_json, as_markdown, as_text

FORMS = {"text": as_text, "markdown": as_markdown, "csv": as_csv, "json": as_json}


def print_comparison(models: Sequence[str], tasks: Sequence[str] | None = None, form: str = "text") -> int:
    """Compare models from their records and print the table.

    Args:
        models: Folders of records or runs; several joined by commas are training seeds of one model.
        tasks: Which tasks; all when absent.
        form: `text`, `markdown`, `csv` or `json`.

    Returns:
        Exit status: 0, or 1 if a task could not be compared.

    Raises:
        RecipeError: Nothing can be compared; says why.
    """
    comparison = compare_folders(models, tasks)
    print(FORMS[form](comparison))
    return int(bool(comparison.refused))
