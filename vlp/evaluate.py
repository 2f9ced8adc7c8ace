"""Evaluate any model on any tasks: a run, a checkpoint, an export, or what open_clip can load."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vlp.evaluators.base import Task, load_task
from vlp.evaluators.dataset import Pixels
from vlp.evaluators.earlier_records import finished
from vlp.evaluators.published import Published, judge, read_published, verdict_table
from vlp.evaluators.record import Record, table
from vlp.evaluators.scoreboard import WRITERS, MainScore, as_text, scores_of, write_scores
from vlp.evaluators.suites import Suite, is_suite, load_suite, match_tasks
from vlp.evaluators.tasks import check_names, run_tasks
from vlp.ground import dist
from vlp.ground.bits import checksum
from vlp.ground.tabular import writer_of
from vlp.ground.types import Encoder, RecipeError
from vlp.run.launch import check_same, join_evaluation
from vlp.run.subject import AnyEncoder, Subject, find_subject


def load(name: str, *, device: torch.device | str = "cpu", batch_size: int = 256) -> AnyEncoder:
    """Return an encoder that turns PIL images and strings into embeddings of unit length.

    Args:
        name: Run or checkpoint folder (`RUN:LABEL` for other weights of it), exported folder, folder with a pair of
            ONNX files, `hf-hub:ORG/NAME`, or `NAME:TAG` of open_clip.
        device: Where its towers compute.
        batch_size: Images or texts per forward.

    Raises:
        RecipeError: No such model, or it has no weights.
    """
    return find_subject(name).encoder(device, batch_size=batch_size)


def score(encoder: AnyEncoder, tasks: Sequence[str], *, name: str = "model") -> list[dict[str, Any]]:
    """Score an encoder on tasks; return what `vlp eval` would write, one record per task.

    Args:
        tasks: Names under `eval/`, or YAML files.
        name: What the records call the model.

    Raises:
        RecipeError: No such task, or two of one name.
    """
    opened = [load_task(task) for task in tasks]
    check_names(opened)
    return run_tasks(opened, encoder, model=name, preprocess=encoder.model.preprocess_cfg)


def evaluate_models(
    names: Sequence[str],
    task_names: Sequence[str] | None = None,
    folder: Path | None = None,
    *,
    pixels: Pixels | None = None,
    resume: bool = False,
    table_file: Path | None = None,
    against: str | None = None,
) -> int:
    """Evaluate models one after the other, print a table, write one JSON file per model and task.

    Started by torchrun or `accelerate launch`, the processes share the work.

    Args:
        names: Run or checkpoint folders (`RUN:LABEL` for other weights of it), exported folders, `hf-hub:ORG/NAME`, or
            `NAME:TAG` of open_clip.
        task_names: Names under `eval/`, suites under `eval/suites/`, or YAML files; when absent those that have
            published numbers, or else those of the run's recipe, or the shipped ones.
        folder: Where the files go, of several models into a folder each; a run keeps its own by default, other models
            none.
        pixels: How images become RGB, for all tasks: as in training or as with referees; by default as each task says.
        resume: Take the records that are there already, where task, model and data are the same.
        table_file: A file for the main metrics: Markdown, CSV or JSON, as its suffix says.
        against: File of published numbers to hold the records against, such as `results/published.yaml`.

    Returns:
        Exit status: 0, or 1 if a task failed, its record could not be written, or a published number is different.

    Raises:
        RecipeError: No such model, task or suite.
    """
    device = join_evaluation()
    with dist.together():
        wanted, suites = find_tasks(task_names or ())  # before gigabytes are read
        if table_file is not None:
            writer_of(table_file, WRITERS)
        places = _places(folder, dict.fromkeys(names))
        published = {name: _published(against, name, wanted) for name in names}
    scores: list[MainScore] = []
    failed = False
    for name, place in places.items():
        told = published[name]
        chosen = wanted or (find_tasks(told.tasks)[0] if told else [])
        records, tasks = _evaluate(name, chosen, place, device=device, pixels=pixels, resume=resume)
        scores += scores_of(records, tasks, suites)
        verdicts = judge(records, told) if told else []
        failed |= any("error" in record or "unwritten" in record for record in records)
        failed |= any(verdict.judgement == "different" for verdict in verdicts)
        if dist.is_main() and len(names) == 1 and not suites:
            print(table(records))
        if dist.is_main() and told:
            print(verdict_table(verdicts, told))
    if dist.is_main() and (len(names) > 1 or suites):
        print(as_text(scores))
    if table_file is not None:
        dist.on_main(partial(write_scores, table_file, scores))
    return int(failed)


def _places(folder: Path | None, names: Iterable[str]) -> dict[str, Path | None]:
    """Return where the records of each model go: into a folder of its own, where there are several."""
    found = {name: folder and folder / name.strip("/").replace("/", "_") for name in names}
    known: dict[Path | None, str] = {}
    for name, place in found.items():
        if place is not None and known.setdefault(place, name) != name:
            raise RecipeError(
                f"--to: the records of '{known[place]}' and '{name}' would both go to {place}: evaluate one of them "
                "into another folder"
            )
    return found if len(found) > 1 else dict.fromkeys(found, folder)


def _published(against: str | None, name: str, tasks: Sequence[Task]) -> Published | None:
    return read_published(against, name, [task.name for task in tasks]) if against else None


def find_tasks(names: Sequence[str]) -> tuple[list[Task], list[Suite]]:
    """Return the tasks that names and patterns such as `xtd10-*` stand for, each once, and the suites among them.

    Raises:
        RecipeError: One is neither a task nor a suite, or two have one name.
    """
    names = [match for name in names for match in (match_tasks([name], "--tasks") if "*" in name else (name,))]
    suites = {name: load_suite(name) for name in names if is_suite(name)}
    flat = [task for name in names for task in (suites[name].tasks if name in suites else (name,))]
    tasks = [load_task(name) for name in dict.fromkeys(flat)]
    check_names(tasks)
    return tasks, list(suites.values())


def _evaluate(
    name: str,
    wanted: Sequence[Task],
    folder: Path | None,
    *,
    device: torch.device,
    pixels: Pixels | None,
    resume: bool,
) -> tuple[list[Record], list[Task]]:
    """Score one model, and say where its records are."""
    with dist.together():
        subject = find_subject(name)
        subject.check_tokenizer()  # once, before the work
        tasks = list(wanted) or find_tasks(subject.tasks)[0]
        if pixels is not None:
            tasks = [replace(task, data=task.data.model_copy(update={"pixels": pixels})) for task in tasks]
        told = float(checksum(subject.tensors()))
    check_same("the model", f"{told} of {subject.name}")
    target = folder or subject.folder
    done: dict[str, Record] = {}
    if resume:
        if target is None:
            raise RecipeError("--resume: there is no folder to go on with; name it with --to")
        done = dist.on_main(partial(finished, tasks, target, told, subject.configuration))
        if done and dist.is_main():
            print(f"{len(done)} of {len(tasks)} tasks are done in {target}", file=sys.stderr)
    records = score_subject(subject, subject.encoder(device), tasks, target, told=told, done=done)
    if dist.is_main() and target is not None:
        print(f"written to {target}", file=sys.stderr)
    return records, tasks


def score_subject(
    subject: Subject,
    encoder: Encoder,
    tasks: Sequence[Task],
    folder: Path | None,
    *,
    told: float,
    done: Mapping[str, Record],
) -> list[Record]:
    """Run tasks on a model that was found by name, with what is known of it in every record.

    Args:
        told: Checksum of its weights.
        done: Records that stand, by task.
    """
    return run_tasks(
        tasks,
        encoder,
        model=subject.name,
        step=subject.step,
        weights=subject.weights,
        preprocess=subject.model.preprocess_cfg,
        model_checksum=told,
        configuration=subject.configuration,
        folder=folder,
        progress=True,
        done=done,
    )


def evaluate_model(
    name: str,
    task_names: Sequence[str] | None = None,
    folder: Path | None = None,
    *,
    pixels: Pixels | None = None,
    against: str | None = None,
) -> int:
    """Evaluate one model; see `evaluate_models`."""
    return evaluate_models([name], task_names, folder, pixels=pixels, against=against)
