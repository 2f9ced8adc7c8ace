"""`vlp robust`: attack a model on tasks, and say what is left of it and whether that can be believed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from vlp.evaluate import find_tasks, score_subject
from vlp.evaluators.base import Task
from vlp.evaluators.earlier_records import finished
from vlp.evaluators.pace import Pace
from vlp.evaluators.record import Record, finish, write_record
from vlp.evaluators.shared import SharedEncoder
from vlp.ground import dist
from vlp.ground.bits import checksum
from vlp.ground.float32 import whole_float32
from vlp.ground.offers import offers
from vlp.ground.tabular import writer_of
from vlp.ground.types import PixelEncoder, RecipeError
from vlp.robust.attack_file import AttackList, load_attacks
from vlp.robust.attack_task import attack_task
from vlp.robust.kept_outcomes import KeptOutcomes
from vlp.robust.opening import can_be_attacked, open_task
from vlp.robust.planned_attacks import attacks_on, planned
from vlp.robust.robust_table import WRITERS, as_text, rows_of, write_rows
from vlp.run.folder import ROBUST_RECORD, UNDER_ATTACK
from vlp.run.launch import check_same, join_evaluation
from vlp.run.subject import Subject, find_subject
from vlp.towers.dual import DualEncoder

USUAL = 10_000  # samples of a set that does not say how many it has
OUTCOMES, TASKS = "outcomes", "tasks"  # folders of what is kept


def attack_model(
    name: str,
    task_names: Sequence[str] | None = None,
    attacks: str = "standard",
    folder: Path | None = None,
    *,
    resume: bool = False,
    table_file: Path | None = None,
) -> int:
    """Attack a model, print a table, and write one record.

    Started by torchrun or `accelerate launch`, the processes share the work.

    Args:
        name: What `vlp eval` takes.
        task_names: Names under `eval/`, suites under `eval/suites/`, or YAML files. Classification and retrieval are
            attacked; others, such as corrupted or written-on images, are evaluated, and stand in the same record. By
            default those of the run's recipe that can be attacked, or of the shipped ones.
        attacks: Name of a file under `eval/attacks/`, or a YAML file.
        folder: Where the record and the outcomes of attacks go; a run keeps its own by default, other models none.
        resume: Take the outcomes that are there, of the same attack, set and weights.
        table_file: A file for the table: Markdown, CSV or JSON, as its suffix says.

    Returns:
        Exit status: 0, or 1 if a task failed or a gate did.

    Raises:
        RecipeError: No such model, task or file of attacks.
    """
    device = join_evaluation()
    with dist.together():
        chosen = load_attacks(attacks)
        wanted = find_tasks(task_names or ())[0]
        if table_file is not None:
            writer_of(table_file, WRITERS)
        subject = replace(find_subject(name), number_format=None)
        subject.check_tokenizer()
        tasks = wanted or [task for task in find_tasks(subject.tasks)[0] if can_be_attacked(task)]
        encoder = _encoder(subject, chosen, device)
        told = float(checksum(subject.tensors()))
    check_same("the model", f"{told} of {subject.name}")
    target = folder or (subject.folder and subject.folder / UNDER_ATTACK)
    if resume and target is None:
        raise RecipeError("--resume: there is no folder to go on with; name it with --to")
    if target is not None:
        dist.on_main(partial(_claim, target))
    started = time.perf_counter()
    with whole_float32():
        kept = KeptOutcomes(target and target / OUTCOMES, resume=resume)
        found = _attack(tasks, chosen, encoder, kept, told, subject)
        others = [task for task in tasks if task.name not in found]
        found |= _evaluate(others, encoder, target and target / TASKS, resume=resume, subject=subject, told=told)
    record = dist.broadcast_object(_record(subject, chosen, [found[task.name] for task in tasks], told, started))
    rows = rows_of(record)
    if dist.is_main():
        print(as_text(record, rows))
    if target is not None:
        dist.on_main(partial(write_record, target / ROBUST_RECORD, record))
    if table_file is not None:
        dist.on_main(partial(write_rows, table_file, record, rows))
    if dist.is_main() and target is not None:
        print(f"written to {target}", file=sys.stderr)
    return int(not record["is_believable"] or any("error" in task for task in record["tasks"]))


def _encoder(subject: Subject, chosen: AttackList, device: torch.device) -> PixelEncoder:
    """Return the model in float32, without gradients of its weights."""
    if isinstance(subject.model, DualEncoder):
        subject.model.requires_grad_(False)
    encoder = subject.encoder(device, batch_size=chosen.file.batch_size)
    if not offers(encoder, PixelEncoder):
        raise RecipeError(f"{subject.name}: a {type(encoder).__name__} does not say what it makes of pixels")
    needy = [listed.label for listed in chosen.listed if listed.build().needs_gradients]
    if needy and not encoder.has_gradients:
        raise RecipeError(
            f"{subject.name}: the model gives no gradients, which attacks.{needy[0]} needs; --attacks blind needs none"
        )
    return encoder


def _claim(folder: Path) -> None:
    """Make a folder, before hours are spent on what would go there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"{folder}: cannot be made ({error}); name another with --to") from error


def _attack(
    tasks: Sequence[Task],
    chosen: AttackList,
    encoder: PixelEncoder,
    kept: KeptOutcomes,
    told: float,
    subject: Subject,
) -> dict[str, Record]:
    """Attack the tasks that can be; one that fails leaves a record with its `error` and does not stop the others."""
    shared = SharedEncoder(encoder, progress=True)
    attacked = [task for task in tasks if can_be_attacked(task)]
    plans = {task.name: attacks_on(task, planned(chosen)) for task in attacked}
    most = chosen.file.samples or USUAL
    pace = Pace([each.work(min(task.data.samples or USUAL, most)) for task in attacked for each in plans[task.name]])

    def tell(said: str, work: float, was_kept: bool) -> None:
        when = pace.skip(work) if was_kept else pace.after(work)
        if dist.is_main():
            tqdm.write(f"{when}: {said}", file=sys.stderr)

    found: dict[str, Record] = {}
    for task in attacked:
        try:
            opened = open_task(
                task, encoder, shared, samples=chosen.file.samples, batch_size=chosen.file.batch_size, progress=True
            )
            record = attack_task(
                opened, plans[task.name], kept, tell, model_checksum=told, configuration=subject.configuration
            )
        except Exception as error:
            record = {"task": task.name, "error": f"{type(error).__name__}: {error}"}
        found[task.name] = dist.broadcast_object(record)
    return found


def _evaluate(
    tasks: Sequence[Task], encoder: PixelEncoder, folder: Path | None, *, resume: bool, subject: Subject, told: float
) -> dict[str, Record]:
    """Evaluate the tasks that are not attacked, as `vlp eval` does."""
    done: dict[str, Record] = {}
    if resume and folder is not None:
        done = dist.on_main(partial(finished, tasks, folder, told, subject.configuration))
    records = score_subject(subject, encoder, tasks, folder, told=told, done=done)
    return {record["task"]: record for record in records}


def _record(subject: Subject, chosen: AttackList, tasks: Sequence[Record], told: float, started: float) -> Record:
    gates = [gate for task in tasks for gate in task.get("gates", ())]
    record = {
        "model": subject.name,
        "step": subject.step,
        "weights": subject.weights,
        "model_checksum": told,
        "attacks": chosen.name,
        "attack_file": chosen.file.model_dump(mode="json"),
        "is_believable": all(gate["is_passed"] for gate in gates),
        "tasks": list(tasks),
    }
    return finish(record, texts=(), seconds=time.perf_counter() - started)
