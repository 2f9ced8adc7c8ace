"""Numbers that others published of public models, and whether records reproduce them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from vlp.evaluators.record import Record
from vlp.ground.explain import explain
from vlp.ground.paths import find_file
from vlp.ground.registry import nearest
from vlp.ground.strict import Strict
from vlp.ground.tabular import aligned, interval
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml

Judgement = Literal["equal", "within the interval", "different", "not measured"]
ROUNDING = 1e-9  # of decimal numbers in floating point


class PublishedSource(Strict):
    """Where numbers were published.

    Args:
        address: Where to read them.
        commit: Which version of it was read.
        digits: Decimals that are given there, of shares between 0 and 1.
        protocol: What a reader should know of how they were measured.
    """

    address: str
    commit: str = ""
    digits: int
    protocol: str = ""


class PublishedNumber(Strict):
    """One published number.

    Args:
        model: As `vlp eval` calls it, such as `ViT-B-32:openai`.
        task: Name under `eval/`.
        metric: As the evaluator calls it.
        tolerance: How much further than by rounding an equal number may lie away.
        source: One of the sources of the file.
    """

    model: str
    task: str
    metric: str
    value: float
    tolerance: float = 0.0
    source: str


class PublishedFile(Strict):
    """A file of published numbers.

    Args:
        sources: By name.
        models: Further names of models, such as `hf-hub:ORG/NAME`, by the name that the numbers have.
    """

    sources: dict[str, PublishedSource]
    models: dict[str, tuple[str, ...]] = {}
    numbers: tuple[PublishedNumber, ...]


@dataclass(frozen=True)
class Published:
    """The published numbers of one model, for the tasks that will be scored."""

    numbers: tuple[PublishedNumber, ...]
    sources: dict[str, PublishedSource]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that have numbers."""
        return tuple(dict.fromkeys(number.task for number in self.numbers))


@dataclass(frozen=True)
class Reproduction:
    """Whether a record reproduces a published number.

    Args:
        low: Lower end of the 95 % interval of `value`, as `high`; None where there is none.
    """

    number: PublishedNumber
    judgement: Judgement
    value: float | None = None
    low: float | None = None
    high: float | None = None


def read_published(name: str, model: str, tasks: Sequence[str]) -> Published:
    """Return what a file has of a model and of tasks.

    Args:
        name: Path from here or from `eval/`; behind a `#` what the file calls the model, if not as `vlp eval` does.
        tasks: Those that will be scored; all of the file where there are none.

    Raises:
        RecipeError: No such file, a mistake in it, or it has nothing of the model or of these tasks.
    """
    place, _, called = name.partition("#")
    path = find_file("eval", place)
    file = _read(str(path), read_yaml(path))
    wanted = called or model
    names = {wanted, *(own for own, others in file.models.items() if wanted in others)}
    of_model = [number for number in file.numbers if number.model in names]
    if not of_model:
        known = dict.fromkeys(number.model for number in file.numbers)
        raise RecipeError(
            f"{path} has no numbers of '{wanted}'{nearest(wanted, known)} (it has: {', '.join(known)}); "
            f"--against {place}#NAME says which of them the model is"
        )
    numbers = tuple(number for number in of_model if number.task in tasks or not tasks)
    if not numbers:
        known = dict.fromkeys(number.task for number in of_model)
        raise RecipeError(f"{path} has no numbers of '{wanted}' for these tasks; --tasks {' '.join(known)} has")
    return Published(numbers, {number.source: file.sources[number.source] for number in numbers})


def judge(records: Sequence[Record], published: Published) -> list[Reproduction]:
    """Hold records against published numbers, a verdict for each number.

    Equal is what rounds to the published number, or lies within its tolerance; otherwise the number may still lie in
    the 95 % interval of ours, which is as much as another build of the libraries or another precision explains.
    """
    return [_judge(number, records, published.sources[number.source].digits) for number in published.numbers]


def verdict_table(verdicts: Sequence[Reproduction], published: Published) -> str:
    """Return aligned columns, where the numbers come from, and how many are reproduced."""
    rows = [("task", "metric", "ours", "95 % interval", "published", "verdict")]
    for verdict in verdicts:
        number = verdict.number
        digits = published.sources[number.source].digits
        ours = "" if verdict.value is None else f"{verdict.value:.{max(4, digits)}f}"
        rows.append(
            (
                number.task,
                number.metric,
                ours,
                interval(verdict.low, verdict.high),
                f"{number.value:.{digits}f}",
                verdict.judgement,
            )
        )
    lines = aligned(rows)
    different = sum(verdict.judgement == "different" for verdict in verdicts)
    measured = sum(verdict.judgement != "not measured" for verdict in verdicts)
    lines.append(f"{measured - different} of {measured} numbers reproduced")
    return "\n".join([*lines, *(_describe(source) for source in published.sources.values())])


def _read(path: str, mapping: dict[str, object]) -> PublishedFile:
    try:
        file = PublishedFile.model_validate(mapping)
    except ValidationError as error:
        raise RecipeError(explain(error, PublishedFile, [(path, mapping)])) from error
    seen = set()
    for place, number in enumerate(file.numbers):
        if number.source not in file.sources:
            hint = nearest(number.source, file.sources)
            raise RecipeError(f"{path}: numbers.{place}.source: there is no source '{number.source}'{hint}")
        if (key := (number.model, number.task, number.metric, number.source)) in seen:
            raise RecipeError(f"{path}: numbers.{place}: a second number of {', '.join(key)}; remove one")
        seen.add(key)
    return file


def _judge(number: PublishedNumber, records: Sequence[Record], digits: int) -> Reproduction:
    record = next((record for record in records if record["task"] == number.task), {})
    metric = record.get("metrics", {}).get(number.metric)
    if metric is None:
        return Reproduction(number, "not measured")
    value, low, high = metric["value"], metric["low"], metric["high"]
    half = 0.5 * 10.0**-digits + ROUNDING
    judgement: Judgement = "different"
    if abs(value - number.value) <= half + number.tolerance:
        judgement = "equal"
    elif low is not None and high is not None and low - half <= number.value <= high + half:
        judgement = "within the interval"
    return Reproduction(number, judgement, value, low, high)


def _describe(source: PublishedSource) -> str:
    commit = f" at {source.commit[:12]}" if source.commit else ""
    return f"published: {source.address}{commit}" + (f" ({source.protocol})" if source.protocol else "")
