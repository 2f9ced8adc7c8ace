"""Open a task as something that can be attacked."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from vlp.evaluators.base import Evaluator, Task, evaluators
from vlp.evaluators.dataset import EvaluationSet, subset
from vlp.evaluators.score_tiles import spaced_places
from vlp.evaluators.shared import SharedEncoder
from vlp.ground import dist
from vlp.ground.types import PixelEncoder
from vlp.robust.goal import CAPTIONS, GOALS, goal_of_captions
from vlp.robust.scored import Scorer
from vlp.robust.stage import Stage

MOST_SHOWN = 6
SEED = 0


@dataclass(frozen=True)
class Opened:
    """A task whose images wait to be attacked.

    Args:
        of: How many samples the whole set has.
    """

    task: Task
    stage: Stage
    scorer: Scorer
    of: int

    @property
    def data(self) -> EvaluationSet:
        """The samples that are attacked."""
        return self.stage.data


def can_be_attacked(task: Task) -> bool:
    """Whether attacks know what images of a task are to find; others, such as corrupted sets, are evaluated as ever."""
    return task.evaluator in GOALS and task.data.corruption is None and task.data.typos is None


def open_task(
    task: Task,
    encoder: PixelEncoder,
    shared: SharedEncoder,
    *,
    samples: int | None,
    batch_size: int,
    progress: bool = False,
) -> Opened:
    """Open the set of a task, or some of its samples, and look at it before anybody changes it.

    Raises:
        RecipeError: The set is not whole, or the model's embeddings are unusable.
    """
    whole = shared.open(task.data)
    with dist.together():
        data = whole
        if samples is not None and samples < len(whole):
            places = spaced_places(len(whole), samples).tolist()
            data = subset(whole, places, f"{samples} evenly spaced samples")
        evaluator: Evaluator = evaluators.build(task.evaluator, dict(task.settings), data)
    scorer = Scorer.of(task, evaluator, shared)
    goal = GOALS[task.evaluator](evaluator, shared)
    captions = goal_of_captions(evaluator, shared.images(data)) if task.evaluator == CAPTIONS else None
    shown = _drawn(scorer.clean[goal.direction])
    stage = Stage(encoder, shared, data, evaluator, goal, captions, batch_size, shown, progress)
    return Opened(task, stage, scorer, len(whole))


def _drawn(ranks: Int64[Tensor, " n"]) -> frozenset[int]:
    """Draw samples that are right, of which a report shows what attacks did to them."""
    right = torch.where(ranks == 1)[0].tolist()
    return frozenset(random.Random(SEED).sample(right, min(MOST_SHOWN, len(right))))
