"""What an evaluator is, and what a task is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, Field

from vlp.evaluators.dataset import DataSource, EvaluationSet
from vlp.evaluators.halves import Half, Part
from vlp.evaluators.layout import CLASS_NAMES, KIND_FILE
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.variants import read_task
from vlp.ground import dist
from vlp.ground.explain import validated
from vlp.ground.registry import Registry, settings_of
from vlp.ground.strict import Strict
from vlp.ground.types import Evaluation, RecipeError

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy and scikit-learn take


class Evaluator(Protocol):
    """Score a model on one evaluation set.

    The positional argument of the class is the opened set; its keyword-only arguments are the `settings` of a task.
    `run` is called by all processes and must ask for the same embeddings on each of them. A class whose samples are
    judged together, in instances that must not be torn apart, says `judges_instances = True`; one that lets a decoder
    write has a static method `check_decoder(type)`, which raises a RecipeError unless a decoder of that type, or none,
    will do.

    Args:
        texts: Every text the evaluator embeds, in order; their hash goes into the record.
    """

    texts: tuple[str, ...]

    def run(self, encoder: SharedEncoder) -> Evaluation: ...


evaluators: Registry[Evaluator] = Registry("evaluator", "vlp.evaluators")


def check_kind(data: EvaluationSet, kind: str) -> None:
    """Raise RecipeError unless a set is of a kind."""
    if data.kind != kind:
        raise RecipeError(f"{data.folder.root} is a {data.kind} set ({KIND_FILE}), the evaluator needs {kind}")


def check_classes(data: EvaluationSet, kind: str = "classification") -> None:
    """Raise RecipeError unless a set is of a kind and its classes have names."""
    check_kind(data, kind)
    if not data.class_names:
        raise RecipeError(f"{data.folder.locate(CLASS_NAMES)}: no such file; add it or set data.class_names")


class TaskFile(Strict):
    """The keys of `eval/<task>.yaml`; `settings` are the keyword-only arguments of the evaluator.

    Args:
        version: Raised whenever numbers of this task stop being comparable.
        evaluator: Registered name.
        main_metric: The number to quote.
        random: What guessing scores in that metric, on average.
        source: Who defined the task: a paper, or an address.
        settings: Those of the evaluator, as `vlp describe EVALUATOR` lists them.
        variants: Further tasks, called `TASK-VARIANT`: names, or names with the keys that they change. In every text of
            the file `{variant}` stands for the name; where it does, the file is no task without one.
    """

    version: int
    evaluator: str
    main_metric: str
    random: float | None = None
    source: str = ""
    data: DataSource
    settings: dict[str, object] = {}
    variants: tuple[str, ...] | dict[str, dict[str, object] | None] = ()


@dataclass(frozen=True)
class Task:
    """A checked task.

    Args:
        settings: Instance of the settings model of the evaluator.
        random: What guessing scores in the main metric.
        source: Who defined the task.
    """

    name: str
    version: int
    evaluator: str
    main_metric: str
    data: DataSource
    settings: BaseModel
    random: float | None = None
    source: str = ""

    @classmethod
    def from_mapping(cls, name: str, mapping: Mapping[str, Any], where: str) -> Task:
        """Check a parsed YAML mapping.

        Args:
            where: The file, for messages.

        Raises:
            RecipeError: An unknown, missing or wrong key; names it.
        """
        file = validated(TaskFile, mapping, where)
        try:
            schema = settings_of(evaluators[file.evaluator])
        except RecipeError as error:
            raise RecipeError(f"{where}: evaluator: {error}") from error
        settings = validated(schema, file.settings, f"{where}: settings")
        return cls(name, file.version, file.evaluator, file.main_metric, file.data, settings, file.random, file.source)

    def half(self, part: Part) -> Task:
        """Return the task on one half of its samples: choose by one, report the other."""
        half = Half(part=part, of_instances=getattr(evaluators[self.evaluator], "judges_instances", False))
        return replace(self, data=self.data.model_copy(update={"half": half}))

    def check_decoder(self, decoder: str | None) -> None:
        """Refuse a model whose decoder is of no use to the evaluator.

        Args:
            decoder: Its type, as a recipe names it; None where the model has none.

        Raises:
            RecipeError: The evaluator lets one write, and this one cannot, or a package that it needs is missing.
        """
        check = getattr(evaluators[self.evaluator], "check_decoder", None)
        if check is not None:
            check(decoder)

    def open(self, encoder: SharedEncoder) -> Evaluator:
        """Open the data, complete or refused, and create the evaluator.

        Raises:
            RecipeError: The data are incomplete or of another kind.
        """
        data = encoder.open(self.data)
        with dist.together():
            return evaluators.build(self.evaluator, dict(self.settings), data)


def load_task(name: str) -> Task:
    """Return a task by its name under `eval/`, such as `cifar10` or `imagenet1k-it`, or by the path of its YAML file.

    Raises:
        RecipeError: No such task, or a mistake in it.
    """
    return Task.from_mapping(*read_task(name))
