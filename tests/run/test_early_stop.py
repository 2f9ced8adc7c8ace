"""A run is scored before its first step, ends where a rule says so, keeps its best checkpoint, and resumes alike."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import vlp.train as training
from tests.evaluators.sets import write_captions
from tests.processes import run_processes
from tests.shards import write_shards
from tests.test_sharded import launched
from tests.tiny import tiny_recipe
from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.run.folder import evaluations_of
from vlp.train import train

METRIC = "eval/noise/mean_recall@5"
STEPS = 8


def prepare(folder: Path) -> Path:
    """Write pairs and a task on noise, on which the score goes up and down."""
    write_shards(folder / "shards", num_shards=3, samples_per_shard=7)
    write_captions(folder / "set")
    (folder / "noise.yaml").write_text(
        f"version: 1\nevaluator: retrieval\nmain_metric: mean_recall@5\ndata: {{root: {folder / 'set'}, samples: 40}}\n"
    )
    return folder


def recipe_of(folder: Path, name: str, rules: str = "", *more: str, before: bool = True):
    tasks = f"tasks: [{folder / 'noise.yaml'}], every: 1, before: {str(before).lower()}, stop_when: {{{rules}}}"
    settings = (f"name={name}", "seed=1", "optimizer.learning_rate=0.003", f"train.steps={STEPS}")
    last = (f"evaluation={{{tasks}}}", "evaluation.weights=model", "checkpoint={every: 100, keep: 1}")
    return tiny_recipe(folder, f"{folder}/shards/*.tar", *settings, *last, *more)


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, str]]:
    return [(line["step"], line["loss"].hex()) for line in lines(run) if "loss" in line]


def scores(run: Path) -> list[float]:
    return [line[METRIC] for line in lines(run) if METRIC in line]


def saved(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").iterdir())


def content_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("early"))


@pytest.fixture(scope="module")
def whole(place):
    """A run that no rule ends; without this course the other tests could see nothing."""
    run = train(recipe_of(place, "whole"))
    course = scores(run)
    assert len(course) == STEPS + 1 and min(course[1:4]) < course[0] < max(course)
    return run


def test_the_start_is_scored_and_changes_nothing_that_is_trained(place, whole):
    plain = train(recipe_of(place, "plain", before=False))
    assert losses(whole) == losses(plain)
    assert scores(whole)[1:] == scores(plain)
    assert [line["step"] for line in lines(whole) if METRIC in line] == list(range(STEPS + 1))
    assert json.loads((evaluations_of(whole, 0) / "noise.json").read_text())["step"] == 0
    assert (evaluations_of(whole, 0) / "noise.samples.parquet").is_file()
    assert saved(whole) == saved(plain) == [STEPS]


def test_the_run_ends_where_the_rule_says_and_the_best_checkpoint_stays(place, whole, capfd):
    course = scores(whole)[1:]
    bests = [course.index(max(course[: place + 1])) for place in range(STEPS)]
    end = next(place for place in range(STEPS) if place - bests[place] >= 2) + 1
    run = train(recipe_of(place, "stopped", "noise: {patience: 2}", before=False))
    assert 3 < end < STEPS
    assert (scores(run), losses(run)) == (course[:end], losses(whole)[:end])
    said = capfd.readouterr().err
    assert f"stopped at step {end} of {STEPS}: noise mean_recall@5 was best at step {end - 2}, " in said
    assert f"best: step {end - 2}, {run}/checkpoints/step_{end - 2:08d}" in said
    assert saved(run) == [end - 2, end]  # the best one was never due, and is older than the newest


def test_a_stopped_run_says_so_and_goes_on_only_by_another_rule(place, whole, capfd):
    recipe = recipe_of(place, "again", "noise: {patience: 1}", before=False)
    run = train(recipe)
    before, said = content_of(run), capfd.readouterr().err
    train(recipe, resume=True)
    assert content_of(run) == before
    ends = [[line for line in text.splitlines() if "stopped" in line] for text in (said, capfd.readouterr().err)]
    assert ends[0] == ends[1] and len(ends[0]) == 1 and "--allow-changes" in ends[0][0]
    other = recipe_of(place, "again", "noise: {patience: 50}", before=False)
    with pytest.raises(RecipeError, match=r"evaluation.stop_when.noise.patience: 1 -> 50\n.*--allow-changes"):
        train(other, resume=True)
    train(other, resume=True, allow_changes=True)
    assert losses(run) == losses(whole)


def test_a_kept_task_that_falls_ends_the_run(place, whole, capfd):
    course = scores(whole)
    end = next(step for step, value in enumerate(course) if value < course[0] - 0.01)
    run = train(recipe_of(place, "fallen", "mine: {task: noise, falls_by: 0.01}"))
    assert scores(run) == course[: end + 1]
    assert f"noise mean_recall@5 fell from {course[0]:.4f} at step 0 to {course[end]:.4f}" in capfd.readouterr().err
    assert saved(run) == sorted({end - 1, end} - {0})


class KilledError(BaseException):
    """What no handler of the program takes for a failure."""


@pytest.mark.parametrize("moment", ["before the scores", "after them"])
def test_a_run_that_was_killed_ends_at_the_same_step(place, whole, monkeypatch, moment):
    name, scored = moment.replace(" ", "-"), training.run_tasks
    recipe = recipe_of(place, name, "noise: {patience: 2}", "checkpoint={every: 1, keep: 2}", before=False)

    def killed(*words, step, **more):
        if step == 2 and moment == "before the scores":
            raise KilledError
        found = scored(*words, step=step, **more)
        if step == 2:
            raise KilledError
        return found

    monkeypatch.setattr(training, "run_tasks", killed)
    with pytest.raises(KilledError):
        train(recipe)
    monkeypatch.undo()
    run = train(recipe, resume=True)
    end = len(losses(run))
    assert losses(run) == losses(whole)[:end] and saved(run) == [end - 2, end - 1, end]
    assert 3 < end < STEPS
    assert scores(run)[-1] == scores(whole)[end]


def test_numbers_that_are_neither_good_nor_bad_end_no_run(place):
    change = "evaluation={tasks: [geometry], before: false, stop_when: {geometry: {patience: 1}}}"
    with pytest.raises(RecipeError, match=r"stop_when.geometry: more of modality_gap is neither better nor worse"):
        train(recipe_of(place, "geometry", "", change))


def _stop_with_others(rank, world_size, folder):
    run = train(recipe_of(Path(folder), "two", "noise: {patience: 2}", "train.precision=float32", before=False))
    dist.barrier()
    return scores(run), saved(run)


@pytest.mark.processes
def test_two_processes_stop_together(tmp_path):
    found = run_processes(_stop_with_others, 2, str(prepare(tmp_path)))
    course, steps = found[0]
    assert found[1] == found[0]
    best = course.index(max(course))
    assert len(course) < STEPS and len(course) - 1 - best == 2 and steps == [best + 1, len(course)]


def _stop_sharded(rank, world_size, folder, environment):
    os.environ.update(environment)
    run = train(recipe_of(Path(folder), "sharded", "noise: {patience: 2}", "model.image.patch_dropout=0.0"))
    dist.barrier()
    return scores(run), saved(run)


@pytest.mark.processes
def test_sharded_parameters_are_scored_before_the_first_step_and_stop_alike(tmp_path):
    found = run_processes(_stop_sharded, 2, str(prepare(tmp_path)), launched())
    assert found[0] == found[1]
    course, steps = found[0]
    best = course.index(max(course))
    assert len(course) - 1 - best == 2 < STEPS and steps == sorted({best, len(course) - 1} - {0})
