"""`vlp merge --greedy`: add models to an average as long as its score does not fall."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from vlp.evaluators.base import Task, load_task
from vlp.evaluators.comparison.score_folders import value_of
from vlp.export.whole_folder import check_free
from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.merging.contributors import Contributor, open_contributor
from vlp.merging.merge import Blend, MergeReport, write_merge
from vlp.merging.scoring import check_choosing, score
from vlp.run.launch import join_evaluation
from vlp.towers.dual import DualEncoder

HOW = (
    "The mean of the weights of these models: a greedy soup (Wortsman et al. 2022, arXiv:2203.05482). {count} models "
    "were tried in the order of their score on one half of `{task}`, and each was kept if the score of the mean did "
    "not fall. The score under Results is that of the other half, which no choice has seen."
)


def greedy_soup(names: Sequence[str], task_name: str, to: Path) -> MergeReport:
    """Average those of several models that do each other good, and write the result as `vlp export` does.

    Recipe 1 of Wortsman et al. 2022 (arXiv:2203.05482): models are sorted by their score; each is added if the score of
    the average is as high with it as without. The choice sees one half of the task's samples, the score that is
    reported is that of the other. Started by torchrun or `accelerate launch`, the processes share the work.

    Args:
        names: Two models or more, as `vlp eval` takes them.
        task_name: Of the task whose main metric decides.
        to: Folder to write.

    Raises:
        RecipeError: The folder exists, no such model or task, or models of different kinds.
    """
    device = join_evaluation()
    if len(names) < 2:
        raise RecipeError("a soup needs two models or more: name another")
    with dist.together():
        check_free(to)
        task = load_task(task_name)
        check_choosing(task)
    found, tried = Blend(), _ranked(names, task, device)
    best, model, log = -float("inf"), None, []
    for name, alone in tqdm(tried, desc="soup", file=sys.stderr, disable=not dist.is_main()):
        model = None  # before the next is in memory
        with dist.together():
            contributor, model = open_contributor(name)
            found.check(contributor, model)
        with_it = _score_with(found, model, contributor, task, device) if found.rows else alone
        is_kept = with_it >= best
        log.append({"model": contributor.name, "alone": alone, "with": with_it, "kept": is_kept})
        _say(f"{contributor.name}: {with_it:.4f} with it, {'kept' if is_kept else f'left out, {best:.4f} without'}")
        if is_kept and found.rows:
            model = None
            with dist.together():
                contributor, model = open_contributor(name)  # its own weights again, where the average stood
        if is_kept:
            with dist.together():
                found.add(contributor, model)
            best = with_it
    assert model is not None
    model.load_state_dict(found.average.mean())
    results = score(model, [task.half("reporting")], to.name, device)
    how = HOW.format(count=len(names), task=task.name)
    more = {"task": task.name, "tried": log}
    return dist.on_main(partial(write_merge, found, model, to, results=results, how=how, more=more))


def _ranked(names: Sequence[str], task: Task, device: torch.device) -> list[tuple[str, float]]:
    """Return models with the score of each alone, the best first; one is in memory at a time."""
    scores = []
    for name in tqdm(names, desc="alone", file=sys.stderr, disable=not dist.is_main()):
        with dist.together():
            contributor, model = open_contributor(name)
        (record,) = score(model, [task.half("choosing")], contributor.name, device)
        scores.append((name, value_of(record)))
    return sorted(scores, key=lambda each: -each[1])


def _score_with(found: Blend, model: DualEncoder, contributor: Contributor, task: Task, device: torch.device) -> float:
    model.load_state_dict(found.average.mean_with(model.state_dict()))
    (record,) = score(model, [task.half("choosing")], f"soup with {contributor.name}", device)
    return value_of(record)


def _say(text: str) -> None:
    if dist.is_main():
        tqdm.write(text, file=sys.stderr)
