"""The sections of a recipe about what a run writes: scores, checkpoints, lines of its log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlp.recipe.section import Section


class StopRule(Section):
    """When a score ends a run before its last step: give one of `falls_by` and `patience`.

    Args:
        task: One of `evaluation.tasks`, by name; the label of the rule where it is not given.
        metric: One that the task measures; null for its main metric.
        falls_by: Stop once the score is worse than `against` by this much, in the metric's own unit (0.02 is two points
            of an accuracy).
        against: The score of the `start`, for which `evaluation.before` is needed, or the `best` one so far.
        patience: Stop once so many evaluations in a row were no better than the best one before them.
    """

    task: str
    metric: str | None = None
    falls_by: float | None = Field(None, gt=0)
    against: Literal["start", "best"] = "start"
    patience: int | None = Field(None, ge=1)

    @property
    def needs_start(self) -> bool:
        """Whether it compares with step 0."""
        return self.falls_by is not None and self.against == "start"


class EvaluationSection(Section):
    """What is measured during training.

    Args:
        tasks: Names of tasks under `eval/`.
        every: Steps between evaluations; null evaluates at the end only.
        before: Evaluate before the first step too: what a training that starts from weights gains and loses.
        kept: Those of the tasks whose scores should stay what they were at the start; the others are the run's own.
        stop_when: Rules by label that end the run early; the label is the task unless `task` says otherwise. The
            checkpoint of the step at which the run's own tasks scored best stays, beside the newest.
        weights: A strategy that holds averaged weights (its label), or `model`.
        heads: Heads behind which the tasks are scored too, as `vlp eval RUN@LABEL` does.
    """

    tasks: tuple[str, ...] = ()
    every: int | None = Field(None, ge=1)
    before: bool = False
    kept: tuple[str, ...] = ()
    stop_when: dict[str, StopRule] = {}
    weights: str = "model"
    heads: tuple[str, ...] = ()


class CheckpointSection(Section):
    """When the run is saved.

    Args:
        every: Steps between checkpoints.
        keep: Newest checkpoints that stay; with `evaluation.stop_when` the best one stays as well.
        background: Train on while a checkpoint is written, from a copy of the state in the main process's memory. Steps
            wait for the copy alone; the last checkpoint of a run is waited for.
        sharded: Each process writes, and with `background` copies, its own part of what the launch splits (FSDP2); the
            main one gathers it all otherwise. It reads the same, with any number of processes. Where every process
            holds the whole (one process, DDP) there is nothing to split, and the main one writes as ever.
    """

    every: int = Field(1000, ge=1)
    keep: int = Field(2, ge=1)
    background: bool = False
    sharded: bool = False


class LogSection(Section):
    """What people see.

    Args:
        every: Steps between lines of `metrics.jsonl`.
        trackers: Accelerate's trackers beside it.
        project: Name under which trackers file the run.
    """

    every: int = Field(10, ge=1)
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    project: str = "vlp"
