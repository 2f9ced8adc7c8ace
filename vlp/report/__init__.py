"""One self-contained HTML page about a run."""

from __future__ import annotations

from pathlib import Path

from vlp.ground.files import write_text
from vlp.ground.types import RecipeError
from vlp.report.gallery import Gallery, gallery_of_run
from vlp.report.page import page
from vlp.report.reading import read_run


def write_report(run: Path, to: Path | None = None) -> Path:
    """Write one HTML page about a run, finished or not, and return its path.

    Args:
        run: The run folder.
        to: The file to write; `report.html` in the run folder when absent.

    Raises:
        RecipeError: Not a run folder, or a record in it is damaged.
    """
    found = read_run(run)
    gallery: Gallery | str
    try:
        gallery = gallery_of_run(run, found.settings.get("evaluation", {}).get("tasks", ()))
    except (RecipeError, OSError) as error:
        gallery = str(error)
    target = to or run / "report.html"
    write_text(target, page(found, gallery))
    return target
