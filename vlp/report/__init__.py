"""One self-contained HTML page about a run."""

from __future__ import annotations

from pathlib import Path

from vlp.ground.files import write_text
from vlp.ground.types import RecipeError
from vlp.plan.saved_plan import SavedPlan
from vlp.report.gallery import Gallery, gallery_of_run
from vlp.report.page import page
from vlp.report.reading import read_run


def write_report(run: Path, to: Path | None = None, *, plan: Path | None = None) -> Path:
    """Write one HTML page about a run, finished or not, and return its path.

    Args:
        run: The run folder.
        to: The file to write; `report.html` in the run folder when absent.
        plan: What `vlp plan --to FILE` expected, to be compared with what came true.

    Raises:
        RecipeError: Not a run folder, or a record in it, or the plan, is damaged.
    """
    planned = None if plan is None else SavedPlan.load(plan)
    found = read_run(run)
    gallery: Gallery | str
    try:
        gallery = gallery_of_run(run, found.settings.get("evaluation", {}).get("tasks", ()))
    except (RecipeError, OSError) as error:
        gallery = str(error)
    target = to or run / "report.html"
    write_text(target, page(found, gallery, planned))
    return target
