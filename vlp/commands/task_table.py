"""The page of tasks and suites, from their files."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vlp.evaluators.suites import load_suite, suite_files
from vlp.evaluators.variants import families, read_task
from vlp.ground.tabular import markdown

PREFACE = """\
Made by `make pages` from the files under `eval/`; `vlp list tasks` and `vlp list suites` print them in short. How a set
is laid out, where it is looked for and what the metrics mean stands in [eval/README.md](../eval/README.md).

"Random" is what guessing scores in the main metric: DataComp's figure where it has one, which guesses classes as often
as they occur, else one over the number of answers. A file with variants holds further tasks, called `TASK-VARIANT`."""
SUITES = ("suite", "what it is", "tasks", "groups")
TASKS = ("task", "set", "samples", "classes or captions", "evaluator", "main metric", "random", "source")
ROOT, SHIPPED = "${VLP_EVAL_ROOT}/", "data/"
MOST_VARIANTS = 8


def tasks_page(shows: Callable[[Any], bool] = lambda _file: True) -> str:
    """Return every suite and every task as one page of Markdown.

    Args:
        shows: Which files of tasks, by their `name`.

    Raises:
        RecipeError: The file of a suite or of a task is broken.
    """
    suites = markdown([SUITES, *(_suite_row(name) for name in sorted(suite_files()))])
    shown = [(path, names) for path, names in families() if shows(SimpleNamespace(name=path.stem))]
    tasks = markdown([TASKS, *(_task_row(path, names) for path, names in shown)])
    notes = [f"### {path.stem}\n\n{_note(path, names)}" for path, names in shown]
    sections = ["# Tasks", PREFACE, "## Suites", suites, "## Tasks by name", tasks, "## What to watch", *notes]
    return "\n\n".join(sections) + "\n"


def _suite_row(name: str) -> list[str]:
    suite = load_suite(name)
    return [name, suite.note, str(len(suite.tasks)), ", ".join(suite.groups)]


def _task_row(path: Path, names: list[str]) -> list[str]:
    tasks = [read_task(name)[1] for name in names]
    first, data = tasks[0], tasks[0]["data"]
    place = "shipped" if data["root"].startswith(SHIPPED) else data["root"].removeprefix(ROOT)
    if path.stem not in names:
        variant = re.escape(names[0].removeprefix(f"{path.stem}-"))
        place = re.sub(rf"(?<=[-/]){variant}(?=$|\.)", "VARIANT", place)
    label = f"[{path.stem}](#{path.stem.lower()})" + (f" ({len(names)})" if len(names) > 1 else "")
    return [
        label,
        place,
        _spread(tasks, "samples"),
        _spread(tasks, "classes") or _spread(tasks, "captions"),
        first["evaluator"],
        first["main_metric"],
        _spread([{"data": task} for task in tasks], "random"),
        first.get("source", ""),
    ]


def _spread(tasks: list[dict[str, Any]], key: str) -> str:
    """Return a number of the data of tasks, or from where to where it goes."""
    values = sorted({task["data"][key] for task in tasks if key in task["data"]})
    shown = [f"{value:,}" for value in values]
    return "" if not shown else shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}"


def _note(path: Path, names: list[str]) -> str:
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    note = "\n".join(line.lstrip("#").strip() for line in lines)
    variants = [f"`{name}`" for name in names if name != path.stem]
    shown = ", ".join(variants[:MOST_VARIANTS]) + (", ..." if len(variants) > MOST_VARIANTS else "")
    return f"{note}\n\nVariants: {shown}" if variants else note
