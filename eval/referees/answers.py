"""What a referee is and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vlp.evaluators.base import Task
from vlp.evaluators.record import Record
from vlp.evaluators.shared import SharedEncoder


@dataclass(frozen=True)
class Answer:
    """The numbers of a referee.

    Args:
        values: By our name of the metric.
        slack: How far ours may be from them because the referee rounds.
    """

    values: dict[str, float]
    slack: float = 0.0


class Referee(Protocol):
    """Another program.

    Args:
        name: What to call it.
    """

    name: str

    def objection(self, task: Task) -> str | None:
        """Return why it cannot judge a task; None where it can."""
        ...

    def prepared(self, task: Task) -> Task:
        """Return the task as both are to run it."""
        ...

    def answer(self, task: Task, encoder: SharedEncoder, record: Record) -> Answer:
        """Compute the metrics of a record again.

        Raises:
            RecipeError: The referee failed.
        """
        ...
