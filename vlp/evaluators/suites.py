"""Suites: lists of tasks that are quoted together, and how their numbers become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from vlp.evaluators.variants import task_names
from vlp.ground import paths
from vlp.ground.explain import validated
from vlp.ground.registry import nearest
from vlp.ground.strict import Strict
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml

FOLDER = "suites"
AVERAGE = "average"


class SuiteFile(Strict):
    """The keys of `eval/suites/<suite>.yaml`.

    Args:
        tasks: Names of tasks, or patterns such as `crossmodal3600-*`, in the order in which they are shown.
        suites: Other suites whose tasks come first.
        groups: Names or patterns by the name of a group; each group has a mean of its own. A task may be in several.
        average: What the average is the mean of: the main metrics of all tasks, or the means of the groups.
    """

    tasks: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = {}
    average: Literal["tasks", "groups"] = "tasks"


@dataclass(frozen=True)
class Suite:
    """A checked suite.

    Args:
        note: What it is, in one line.
        tasks: Names of tasks, each once.
        groups: Names of tasks by group.
        average: What the average is the mean of.
    """

    name: str
    note: str
    tasks: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    average: Literal["tasks", "groups"] = "tasks"

    def averages(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of each group, and under `average` that of the suite.

        A mean over fewer tasks than it speaks of is another number: one whose tasks are not all there is left out.

        Args:
            scores: Main metrics by task.
        """
        means = {
            group: _mean([scores[task] for task in tasks])
            for group, tasks in self.groups.items()
            if all(task in scores for task in tasks)
        }
        if not all(task in scores for task in self.tasks):
            return means
        values = [scores[task] for task in self.tasks] if self.average == "tasks" else list(means.values())
        return means | {AVERAGE: _mean(values)}


def suite_files() -> dict[str, Path]:
    """Map the name of every suite to its file; the working directory wins."""
    return paths.cards("eval", FOLDER)


def is_suite(name: str) -> bool:
    """Whether a name, or a path of a YAML file, is that of a suite and not of a task."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path.is_file() and "evaluator" not in read_yaml(path)
    return name in suite_files() and name not in task_names()


def load_suite(name: str) -> Suite:
    """Return a suite by its name under `eval/suites/` or by the path of its YAML file.

    Raises:
        RecipeError: No such suite, or a mistake in it.
    """
    return _load(name, ())


def match_tasks(patterns: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the tasks that names and patterns such as `crossmodal3600-*` stand for, each once.

    Args:
        where: Who asks, for messages.

    Raises:
        RecipeError: One stands for no task.
    """
    known = task_names()
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = [name for name in known if fnmatchcase(name, pattern)]
        if not matches:
            raise RecipeError(f"{where}: there is no task '{pattern}'{nearest(pattern, known)}; see vlp list tasks")
        found |= dict.fromkeys(matches)
    return tuple(found)


def _load(name: str, parents: tuple[str, ...]) -> Suite:
    path = _find(name)
    where = str(path)
    if path.stem in parents:
        raise RecipeError(f"{where}: suites {' -> '.join([*parents, path.stem])} name each other; leave one out")
    mapping = read_yaml(path)
    file = validated(SuiteFile, mapping, where)
    within = [task for suite in file.suites for task in _load(suite, (*parents, path.stem)).tasks]
    tasks = tuple(dict.fromkeys([*within, *match_tasks(file.tasks, where)]))
    if not tasks:
        raise RecipeError(f"{where}: it names no tasks; list some under `tasks`")
    groups = {group: match_tasks(names, f"{where}: groups.{group}") for group, names in file.groups.items()}
    for group, members in groups.items():
        if strangers := [task for task in members if task not in tasks]:
            raise RecipeError(f"{where}: groups.{group} has {strangers[0]}, which is none of the suite's tasks")
    _check_average(file, groups, tasks, where)
    note = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").strip()
    return Suite(path.stem, note, tasks, groups, file.average)


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RecipeError(f"there is no file '{name}'")
        return path
    known = suite_files()
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise RecipeError(f"there is no suite '{name}'{nearest(name, known)} (there are: {there}; or a YAML file)")
    return known[name]


def _check_average(file: SuiteFile, groups: Mapping[str, tuple[str, ...]], tasks: tuple[str, ...], where: str) -> None:
    """Refuse an average over groups that leave out a task."""
    if AVERAGE in groups:
        raise RecipeError(f"{where}: groups.{AVERAGE}: this is what the mean of the suite is called; rename the group")
    inside = {task for members in groups.values() for task in members}
    if file.average == "groups" and (left := [task for task in tasks if task not in inside]):
        raise RecipeError(f"{where}: average is that of groups, and {left[0]} is in none; put it into one")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
