"""What the evaluations of a run have found so far, whether it should stop there, and which step was best.

Everything follows from the scores up to a step, which are the same on every process and after a resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from vlp.evaluators.comparison.task_scores import sign_of
from vlp.evaluators.record import Record, evaluated_steps, read_record
from vlp.evaluators.variants import name_in_records
from vlp.ground import dist
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError
from vlp.recipe.scoring_and_saving import EvaluationSection, StopRule
from vlp.run.checkpoint import folder_of
from vlp.run.clock import due

ROUNDING = 1e-9  # 0.30 - 0.28 is less than 0.02 in float64


@dataclass(frozen=True)
class Scored:
    """What a record says of one task at one step."""

    evaluator: str
    main_metric: str
    values: Mapping[str, float]

    @classmethod
    def of(cls, record: Record) -> Scored:
        """Return what counts of a record."""
        return cls(
            record["evaluator"],
            record["main_metric"],
            {name: float(metric["value"]) for name, metric in record["metrics"].items()},
        )

    def value(self, metric: str | None = None) -> float:
        """Return a metric, the main one by default, of which more is better: others are taken negative."""
        name = metric or self.main_metric
        return self.values[name] * self.sign(metric)

    def sign(self, metric: str | None = None) -> int:
        """Return -1 where less of a metric, the main one by default, is better, and 1 otherwise."""
        return sign_of(self.evaluator, metric or self.main_metric) or 1

    @property
    def can_be_better(self) -> bool:
        """Whether more of the main metric is better."""
        return sign_of(self.evaluator, self.main_metric) > 0


Step = dict[str, Scored]
"""By task; without those that failed."""


class ScoreHistory:
    """The scores of a run, step by step.

    Args:
        evaluation: What the recipe says of them.
    """

    def __init__(self, evaluation: EvaluationSection):
        self.evaluation = evaluation
        self.rules: Mapping[str, StopRule] = {
            label: rule.model_copy(update={"task": name_in_records(rule.task)})
            for label, rule in evaluation.stop_when.items()
        }
        self.steps: dict[int, Step] = {}
        self.verdict = ""
        """Which rule ends the run at the newest evaluation, in words; nothing where none does."""

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether a run that starts or goes on at a step has to be evaluated there first."""
        if not self.evaluation.tasks or step in self.steps:
            return False
        return due(step, self.evaluation.every, num_steps) if step else self.evaluation.before

    def recall(self, run: Path, step: int) -> None:
        """Read what was evaluated up to a step; called by all processes.

        Raises:
            RecipeError: A rule compares with a start that was not scored.
        """
        self.steps = dist.on_main(partial(_read, run, self.evaluation, step))
        for label, rule in self.rules.items():
            if step and rule.needs_start and rule.task not in self.steps.get(0, {}):
                raise RecipeError(
                    f"evaluation.stop_when.{label}: the run has no score of {rule.task} at step 0, and has left it: "
                    "set against: best, or take the rule out"
                )
        self._judge()

    def add(self, step: int, records: Sequence[Record]) -> None:
        """Add what was found after a step.

        Raises:
            RecipeError: A rule names a metric that was not measured, or the start, which it needs, could not be scored.
        """
        failed = {record["task"]: record["error"] for record in records if "error" in record}
        self.steps[step] = {record["task"]: Scored.of(record) for record in records if "error" not in record}
        for label, rule in self.rules.items():
            found = self.steps[step].get(rule.task)
            if found and rule.metric is not None and rule.metric not in found.values:
                hint = nearest(rule.metric, found.values)
                raise RecipeError(f"evaluation.stop_when.{label}.metric: {rule.task} has no '{rule.metric}'{hint}")
            if step == 0 and rule.needs_start and found is None:
                raise RecipeError(
                    f"evaluation.stop_when.{label}: the start, with which later scores are compared, has none "
                    f"({failed.get(rule.task)})"
                )
        self._judge()

    def _judge(self) -> None:
        last = max(self.steps, default=0)
        said = [self._has_fallen(label, last) or self._rests(label, last) for label in self.rules]
        self.verdict = next(filter(None, said), "")

    def epilogue(self, run: Path, step: int, num_steps: int) -> list[str]:
        """Return what the log says at the end of a run with rules: why it is over, and where its best weights are."""
        said = []
        if self.verdict and step < num_steps:
            said.append(
                f"stopped at step {step} of {num_steps}: {self.verdict}; to go on, change evaluation.stop_when and "
                "resume with --allow-changes"
            )
        best = self.best_step()
        if best is not None:
            said.append(f"best: step {best}, {folder_of(run, best)}" if best else "best: the start, before step 1")
        return said

    def best_step(self) -> int | None:
        """Return the step at which the scores of the run's own tasks were highest on average, the first of equal ones.

        Steps at which a score had fallen too far do not count. The run's own tasks are those that must rise, or else
        those that none keeps; without any, the newest step counts that has not lost too much. None without rules.
        """
        fitting = [
            step for step in sorted(self.steps) if not any(self._has_fallen(label, step) for label in self.rules)
        ]
        scores = {step: value for step in fitting if (value := self._own_score(step)) is not None}
        if not self.rules or not fitting:
            return None
        return max(scores, key=lambda step: (scores[step], -step)) if scores else fitting[-1]

    def _own_score(self, step: int) -> float | None:
        rising = [(rule.task, rule.metric) for rule in self.rules.values() if rule.patience is not None]
        found = self.steps[step]
        chosen = rising or [(task, None) for task in own_tasks(self.evaluation) if task in found]
        if not chosen or any(task not in found for task, _ in chosen):
            return None
        values = [found[task].value(metric) for task, metric in chosen if rising or found[task].can_be_better]
        return fmean(values) if values else None

    def _course(self, rule: StopRule, last: int) -> list[tuple[int, float]]:
        """Return (step, score) of a rule's task up to a step."""
        return [
            (step, found[rule.task].value(rule.metric))
            for step, found in sorted(self.steps.items())
            if step <= last and rule.task in found
        ]

    def _has_fallen(self, label: str, step: int) -> str:
        rule = self.rules[label]
        course = self._course(rule, step)
        if rule.falls_by is None or not course or course[-1][0] != step:
            return ""
        since, before = max(course, key=lambda each: each[1]) if rule.against == "best" else course[0]
        now = course[-1][1]
        if before - now < rule.falls_by - ROUNDING or (rule.against == "start" and since != 0):
            return ""
        sign = self._scored(rule).sign(rule.metric)
        return (
            f"{self._name(rule)} {'fell' if sign > 0 else 'rose'} from {sign * before:.4f} at step {since} to "
            f"{sign * now:.4f} "
            f"(evaluation.stop_when.{label}.falls_by: {rule.falls_by:g})"
        )

    def _rests(self, label: str, step: int) -> str:
        rule = self.rules[label]
        course = self._course(rule, step)
        if rule.patience is None or not course or course[-1][0] != step:
            return ""
        since, best = max(course, key=lambda each: (each[1], -each[0]))
        waited = sum(each > since for each, _ in course)
        if waited < rule.patience:
            return ""
        sign = self._scored(rule).sign(rule.metric)
        return (
            f"{self._name(rule)} was best at step {since}, {sign * best:.4f}, and no better since "
            f"(evaluation.stop_when.{label}.patience: {rule.patience})"
        )

    def _name(self, rule: StopRule) -> str:
        return f"{rule.task} {rule.metric or self._scored(rule).main_metric}"

    def _scored(self, rule: StopRule) -> Scored:
        """Return what any step found of a rule's task."""
        return next(each[rule.task] for each in self.steps.values() if rule.task in each)


def kept_tasks(evaluation: EvaluationSection) -> list[str]:
    """Return the names of the tasks whose scores should stay what they were: as it is said, or as they may not fall."""
    falling = [rule.task for rule in evaluation.stop_when.values() if rule.falls_by is not None]
    kept = {name_in_records(task) for task in (*evaluation.kept, *falling)}
    return [name for task in evaluation.tasks if (name := name_in_records(task)) in kept]


def own_tasks(evaluation: EvaluationSection) -> list[str]:
    """Return the names of the tasks that a run is about: all that it does not only keep."""
    kept = kept_tasks(evaluation)
    return [name for task in evaluation.tasks if (name := name_in_records(task)) not in kept]


def _read(run: Path, evaluation: EvaluationSection, last: int) -> dict[int, Step]:
    """Read the scores of the weights that a run evaluates; the last step counts if no record of it is missing."""
    steps: dict[int, Step] = {}
    for step, folder in evaluated_steps(run).items():
        records = [read_record(folder / f"{name_in_records(task)}.json") for task in evaluation.tasks]
        there = [each for each in records if each is not None and each.get("weights") == evaluation.weights]
        if step < last or (step == last and len(there) == len(evaluation.tasks)):
            steps[step] = {record["task"]: Scored.of(record) for record in there if "error" not in record}
    return steps
