"""A set and a task for every evaluator, written where a test wants them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.evaluators.kinds import vector, write_set
from tests.evaluators.sets import task_on, write_captions, write_classes, write_regions
from tests.evaluators.splits import write_splits
from vlp.evaluators.base import Task
from vlp.evaluators.layout import TEMPLATES

NUMBERS = ["number1", "number2"]


def write_every_set(folder: Path) -> None:
    """Write the sets of all tasks."""
    write_classes(folder / "classes", labels=[i % 3 for i in range(50)])
    write_captions(folder / "captions")
    several = {f"s{i}": {"npy": vector(i % 2, i % 3 == 0, 1)} for i in range(40)}
    write_set(folder / "several", "multilabel", several, ["red cat", "green dog", "blue bird"])
    choices = {
        f"s{i // 2}_{i % 2}": {"txt": f"word{i} of word{i ^ 1}\nword{i ^ 1} of word{i}".encode()} for i in range(40)
    }
    write_set(folder / "choices", "choice", choices)
    cues = {f"s{i // 5}_{i % 5}": {"txt": f"cue{i // 5}".encode(), "cls": str(i % 5 // 3).encode()} for i in range(40)}
    write_set(folder / "cues", "association", cues)
    write_splits(folder / "splits", train=[i % 3 for i in range(60)], test=[i % 3 for i in range(40)])
    (folder / "splits" / TEMPLATES).write_text("a photo of a {c}\n")
    edits = {f"s{i}": {"txt": f"word{i % 4}\nword{(i + 1) % 4}".encode()} for i in range(40)}
    write_set(folder / "edits", "choice", edits)
    parts = [[((k / 4, i / 50, (k + 1) / 4, 1.0), f"word{i} word{k}") for k in range(i % 3)] for i in range(40)]
    write_regions(folder / "parts.yaml", parts)


def every_task(folder: Path) -> list[Task]:
    """Return a task for each evaluator, on these sets, called by its number and evaluator."""
    tasks = [
        task_on(folder / "classes", "zero_shot", "acc1"),
        task_on(folder / "captions", "retrieval", "mean_recall@1"),
        task_on(folder / "captions", "geometry", "auc"),
        task_on(folder / "several", "multilabel", "map"),
        task_on(folder / "choices", "choice", "accuracy"),
        task_on(folder / "choices", "winoground", "group_score"),
        task_on(folder / "cues", "association", "jaccard"),
        probe_on(folder / "captions", "diagnostics", "cka", k=2),
        task_on(folder / "classes", "tolerance", "tolerance"),
        probe_on(folder / "splits", "linear_probe", "acc1"),
        probe_on(folder / "splits", "knn", "acc1_k3", k=[3, 10]),
        probe_on(folder / "splits", "few_shot", "linear_acc1_2shot", shots=[1, 2], draws=2),
        probe_on(folder / "splits", "clustering", "nmi"),
        probe_on(folder / "classes", "joint_clustering", "joint_nmi"),
        probe_on(folder / "edits", "arithmetic", "acc1"),
        task_on(folder / "classes", "typographic", "followed"),
        task_on(folder / "classes", "zero_shot", "acc1", corruption={"kind": "glass_blur", "severity": 3}),
        task_on(folder / "captions", "retrieval", "mean_recall@1", typos={"rate": 0.2}),
        probe_on(folder / "splits", "tip_adapter", "acc1_2shot", shots=[1, 2], draws=2),
        probe_on(
            folder / "captions", "aspect_retrieval", "map_at_r", aspects={"which": "which"}, words={"which": NUMBERS}
        ),
        task_on(folder / "parts.yaml", "grounding", "acc@0.5"),
    ]
    return [replace(task, name=f"{number} {task.evaluator}") for number, task in enumerate(tasks)]


def probe_on(root, evaluator, main_metric, **settings):
    mapping = {"version": 1, "evaluator": evaluator, "main_metric": main_metric, "data": {"root": str(root)}}
    return Task.from_mapping(evaluator, mapping | {"settings": settings}, "a test")
