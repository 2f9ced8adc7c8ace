"""`vlp interpolate`: the straight line between the weights of a start and of an end, and the best point on it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vlp.evaluate import find_tasks
from vlp.evaluators.base import Task
from vlp.evaluators.halves import Part
from vlp.evaluators.record import Record
from vlp.evaluators.variants import name_in_records
from vlp.ground import dist, files
from vlp.ground.types import RecipeError
from vlp.merging.chosen_point import Point, choose
from vlp.merging.contributors import Contributor, open_contributor, run_of
from vlp.merging.line_record import MODEL, LineReport, write_line
from vlp.merging.same_model import build_of, check_same_model
from vlp.merging.scoring import can_choose, check_choosing, score
from vlp.merging.start_of_run import open_start
from vlp.recipe.scoring_and_saving import EvaluationSection
from vlp.run.checkpoint import read_lock
from vlp.run.folder import IN_USE
from vlp.run.launch import join_evaluation
from vlp.run.score_history import kept_tasks, own_tasks
from vlp.towers.dual import DualEncoder
from vlp.towers.weight_average import between

SHARES = tuple(number / 10 for number in range(11))
SCORES = "scores"
DIGITS = 4  # of a share, which names a folder


@dataclass(frozen=True)
class StraightLine:
    """Two models of one kind, and all that lie straight between them.

    Args:
        model: Takes the weights of any point.
        tasks: Own tasks first.
        num_own: How many they are.
        folder: Where records are kept.
        notes: What a reader should know of models between such ends.
    """

    start: Contributor
    end: Contributor
    ends: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    model: DualEncoder
    tasks: Sequence[Task]
    num_own: int
    folder: Path
    notes: Sequence[str]

    def go_to(self, share: float) -> None:
        """Give the model the weights at a share of the end."""
        self.model.load_state_dict(between(*self.ends, share))

    def score(self, share: float, part: Part, device: torch.device) -> list[Record]:
        """Return the records of a point on one half of each task, those of earlier starts among them."""
        self.go_to(share)
        tasks = [task.half(part) for task in self.tasks]
        return score(self.model, tasks, f"share {share:g}", device, self.folder_of(share, part))

    def folder_of(self, share: float, part: Part) -> Path:
        """Return where the records of a point are."""
        return self.folder / SCORES / f"share_{share:g}" / part


def interpolate(
    names: Sequence[str],
    to: Path,
    *,
    own: Sequence[str] = (),
    kept: Sequence[str] = (),
    shares: Sequence[float] = SHARES,
    most_lost: float | None = None,
    resume: bool = False,
) -> LineReport:
    """Score points on the line between a start and an end, choose one, and write it as `vlp export` does.

    Weight-space ensembles for fine-tuning (WiSE-FT), Wortsman et al. 2022 (arXiv:2109.01903). The choice sees one half
    of each task's samples; start, end and the point that is chosen are then compared on the other half, which is read
    for no other point. Started by torchrun or `accelerate launch`, the processes share the work.

    Args:
        names: The start and the end, as `vlp eval` takes them; or a run alone, which knows what it started from.
        to: Folder to write: `model/`, the export; `interpolation.json`, what was found; `scores/`, all records.
        own: Tasks and suites that the end was trained for; those of the run's recipe when absent.
        kept: Tasks and suites that should not be lost; `evaluation.kept` of the run's recipe when absent.
        shares: Of the end, between 0 and 1; both are scored in any case.
        most_lost: Take the highest own score whose kept score is at most so many points of a hundred below that of
            the start, instead of the highest mean of both.
        resume: Take the scores that are there, and choose anew.

    Raises:
        RecipeError: No such models or tasks, models of different kinds, or a folder that is taken.
    """
    device = join_evaluation()
    with dist.together():
        _check_numbers(names, shares, most_lost)
        _check_free(to, resume)
        tasks, num_own = _tasks(names[-1], own, kept)
        line = _open(names, tasks, num_own, to)
    dist.on_main(partial(_claim, to))
    points = []
    wanted = sorted({0.0, *(round(float(share), DIGITS) for share in shares), 1.0})
    for share in tqdm(wanted, desc="shares", file=sys.stderr, disable=not dist.is_main()):
        records = line.score(share, "choosing", device)
        points.append(Point(share, records[:num_own], records[num_own:]))
        if dist.is_main():
            told = f"share {share:g}: own {points[-1].own_score:.4f}, kept {points[-1].kept_score:.4f}"
            tqdm.write(told, file=sys.stderr)
    best = choose(points, most_lost)
    reported = {share: line.score(share, "reporting", device) for share in sorted({0.0, best.share, 1.0})}
    line.go_to(best.share)
    folders = {share: line.folder_of(share, "reporting") for share in reported}
    return dist.on_main(partial(_finish, line, points, best, most_lost, reported, folders, run_of(names[-1])))


def _finish(
    line: StraightLine,
    points: Sequence[Point],
    best: Point,
    most_lost: float | None,
    reported: Mapping[float, Sequence[Record]],
    folders: Mapping[float, Path],
    run: Path | None,
) -> LineReport:
    shutil.rmtree(line.folder / MODEL, ignore_errors=True)  # of an earlier choice
    return write_line(
        line.model.cpu(),
        line.folder,
        ends=(line.start, line.end),
        points=points,
        best=best,
        most_lost=most_lost,
        reported=reported,
        folders=folders,
        run=run,
        notes=line.notes,
    )


def _check_numbers(names: Sequence[str], shares: Sequence[float], most_lost: float | None) -> None:
    if len(names) > 2:
        raise RecipeError("a line has two ends: name START and END, or a run alone (vlp merge averages several)")
    if not all(0 <= share <= 1 for share in shares):
        raise RecipeError(f"--shares: {' '.join(map(str, shares))}: each lies between 0, the start, and 1, the end")
    if most_lost is not None and not most_lost >= 0:
        raise RecipeError(f"--most-lost: {most_lost} is no number of points to lose: give 0 or more")


def _tasks(end: str, own: Sequence[str], kept: Sequence[str]) -> tuple[list[Task], int]:
    """Return own tasks, then those that are kept, and how many are own."""
    run = run_of(end)
    said = EvaluationSection() if run is None else read_lock(run).evaluation
    found = []
    for flag, asked, known in (("--own", own, own_tasks(said)), ("--kept", kept, kept_tasks(said))):
        tasks, _ = find_tasks(asked or [name for name in said.tasks if name_in_records(name) in known])
        if not asked:
            tasks = [task for task in tasks if can_choose(task)]
        if not tasks:
            raise RecipeError(f"{flag}: name tasks or suites; '{end}' knows none (evaluation.tasks, evaluation.kept)")
        for task in tasks:
            check_choosing(task)
        found.append(tasks)
    if twice := {task.name for task in found[0]} & {task.name for task in found[1]}:
        raise RecipeError(f"--own, --kept: {', '.join(sorted(twice))} cannot be both")
    return [*found[0], *found[1]], len(found[0])


def _check_free(to: Path, resume: bool) -> None:
    """Refuse a folder that is taken, but with `resume` one that holds scores.

    Raises:
        RecipeError: It is.
    """
    is_ours = (to / SCORES).is_dir()
    if to.exists() and not (resume and is_ours):
        way = "--resume takes the scores that are there" if is_ours else "choose another folder, or remove it"
        raise RecipeError(f"'{to}' exists already: {way}")


def _claim(to: Path) -> None:
    try:
        (to / SCORES).mkdir(parents=True, exist_ok=True)
        is_ours = files.hold(to / IN_USE)
    except OSError as error:
        raise RecipeError(f"--to: '{to}' cannot be made ({error})") from error
    if not is_ours:
        raise RecipeError(f"'{to}': another process works in it: wait for its end, or choose another folder")


def _open(names: Sequence[str], tasks: Sequence[Task], num_own: int, to: Path) -> StraightLine:
    start, first = open_start(names[0]) if len(names) == 1 else open_contributor(names[0])
    built, start_weights = build_of(start.name, first), dict(first.state_dict())
    del first
    end, model = open_contributor(names[-1])
    check_same_model(built, build_of(end.name, model))
    end_weights = {name: value.clone() for name, value in model.state_dict().items()}
    return StraightLine(start, end, (start_weights, end_weights), model, tasks, num_own, to, built.notes())
