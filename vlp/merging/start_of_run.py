"""The weights that a run started from, built again as the run built them."""

from __future__ import annotations

from pathlib import Path

from vlp.export.run import find_origins
from vlp.ground.types import RecipeError
from vlp.merging.contributors import Contributor, run_of, sha256_of_weights
from vlp.recipe.model import build_start
from vlp.run.checkpoint import read_lock
from vlp.towers.dual import DualEncoder


def open_start(end: str) -> tuple[Contributor, DualEncoder]:
    """Load what a run started from, as its lock says.

    Args:
        end: The run, as `vlp eval` takes it.

    Raises:
        RecipeError: It is no run, started at random or in part, or what it started from is not what it was.
    """
    run = run_of(end)
    if run is None:
        raise RecipeError(f"'{end}' is no run, so nobody knows where it started: name START and END")
    model = build_start(read_lock(run).model)
    _check_origins(run, model)
    sources = ", ".join(dict.fromkeys(found.source for found in model.loaded))
    return Contributor(f"the start of {run}: {sources}", sha256_of_weights(model.state_dict())), model.eval()


def _check_origins(run: Path, model: DualEncoder) -> None:
    known, found = find_origins(run), [str(each) for each in model.loaded]
    if {each.part for each in model.loaded} != {"visual.", "text."} or any(
        each.found != each.of for each in model.loaded
    ):
        said = "; ".join(known) or "nothing but random numbers"
        raise RecipeError(f"{run}: no line leads to a start that was random, whole or in part ({said}): name START")
    if known != found:
        raise RecipeError(
            f"{run}: what it started from is not what it was ({'; '.join(known)}), but {'; '.join(found)}: name START"
        )
