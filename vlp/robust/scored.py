"""What is left of a task, and what an attack took: the evaluator's own numbers, and attack success rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.evaluators.base import Evaluator, Task
from vlp.evaluators.intervals import proportion
from vlp.evaluators.record import lay_out
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Metric
from vlp.robust.goal import CAPTIONS, GOALS, goal_of_captions

Laid = dict[str, dict[str, float | int | None]]
Ranks = Mapping[str, Int64[Tensor, " q"]]


@dataclass(frozen=True)
class Scorer:
    """What scores embeddings of a set, whoever changed them.

    Args:
        shared: The model as evaluators see it.
        images: Embeddings of the unchanged images.
        clean: Ranks of what is right for each query, by direction, where nobody changed anything.
    """

    task: Task
    evaluator: Evaluator
    shared: SharedEncoder
    images: Float32[Tensor, "n d"]
    clean: Ranks

    @property
    def texts(self) -> Float32[Tensor, "t d"]:
        """Embeddings of the unchanged captions."""
        return self.shared.texts(self.evaluator.texts).cpu()

    @classmethod
    def of(cls, task: Task, evaluator: Any, shared: SharedEncoder) -> Scorer:
        """Embed a set, and look where what is right stands."""
        images = shared.images(evaluator.data).cpu()
        scorer = cls(task, evaluator, shared, images, {})
        return replace(scorer, clean=scorer.ranks(images, None))

    def ranks(self, images: Float32[Tensor, "n d"] | None = None, texts: Float32[Tensor, "t d"] | None = None) -> Ranks:
        """Return where what is right stands for each query, by direction.

        Args:
            images: Embeddings that stand for those of the set; unchanged ones when absent, as `texts`.
        """
        shown, rows = self._shown(images, texts), self.images if images is None else images
        goal = GOALS[self.task.evaluator](self.evaluator, shown)
        found = {goal.direction: goal.ranks(rows)}
        if self.task.evaluator == CAPTIONS:
            captions = goal_of_captions(self.evaluator, rows.to(shown.device))
            found[captions.direction] = captions.ranks(shown.texts(self.evaluator.texts))
        return found

    def metrics(
        self, images: Float32[Tensor, "n d"] | None = None, texts: Float32[Tensor, "t d"] | None = None
    ) -> Laid:
        """Return the evaluator's metrics, the main one first, and behind them what an attack took."""
        evaluation = self.evaluator.run(self._shown(images, texts))
        found = lay_out(evaluation, self.task.main_metric)
        if images is None and texts is None:
            return found
        taken = [metric for name, ranks in self.ranks(images, texts).items() for metric in self._taken(name, ranks)]
        return found | {
            each.name: {"value": each.value, "low": each.low, "high": each.high, "count": each.count} for each in taken
        }

    def _shown(self, images: Tensor | None, texts: Tensor | None) -> SharedEncoder:
        listed = None if texts is None else (tuple(self.evaluator.texts), texts)
        data = self.evaluator.data  # type: ignore[attr-defined]
        return self.shared.showing(data, images=self.images if images is None else images, texts=listed)

    def _taken(self, direction: str, ranks: Int64[Tensor, " q"]) -> list[Metric]:
        """Return the share of queries that found theirs among the first k, and no longer do: the attack success rate.

        As Fang et al. 2024 (arXiv:2406.05491) count it: of each model against its own clean run.
        """
        cuts = getattr(self.evaluator, "recall_at", (1,))
        found = []
        for cut in cuts:
            had = self.clean[direction] <= cut
            lost = had & (ranks > cut)
            if had.any():
                found.append(proportion(f"{direction}success@{cut}", int(lost.sum()), int(had.sum())))
        return found
