"""Two models or more, compared from their records: which differences are more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlp.evaluators.comparison.differences import Comparison, compare
from vlp.evaluators.comparison.score_folders import read_contestants

__all__ = ["Comparison", "compare_folders"]


def compare_folders(folders: Sequence[str | Path], tasks: Sequence[str] | None = None) -> Comparison:
    """Compare models from what `vlp eval` wrote about them.

    Args:
        folders: One for each model: a folder of records or a run (its newest evaluation); folders joined by commas
            are training seeds of one model.
        tasks: Which tasks; all when absent.

    Raises:
        RecipeError: Nothing can be compared; says why.
    """
    return compare(read_contestants([str(folder) for folder in folders]), tasks)
