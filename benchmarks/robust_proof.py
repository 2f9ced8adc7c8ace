"""What training against an adversary gains and costs on the shipped pairs: clean, CLAE, PGD contrast and FARE.

    python -m benchmarks.robust_proof
    python -m benchmarks.robust_proof --quick --to runs/try

Each way trains the quickstart's model: on clean images, on clean ones and what one signed step makes of them (CLAE,
arXiv:2010.12050), on clean ones and what several steps make of them, and, from the clean model, so that changed images
are seen as clean ones were (FARE, arXiv:2402.12336). All are attacked with the same attacks, and what is left is the
worst case of all of them for each image. Numbers whose gates fail are marked. Runs and what attacks found stay in the
folder, and are not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.dated_report import command_line, write_page
from benchmarks.processor_time import minutes_in, timed
from benchmarks.quick import add_quick, settle
from benchmarks.seeds import newest
from benchmarks.tables import Table, markdown
from vlp.recipe.compose import load_recipe
from vlp.robust.attack_model import attack_model
from vlp.robust.robust_table import CLEAN, rows_of
from vlp.robust.task_record import WORST
from vlp.run.folder import ROBUST_RECORD, UNDER_ATTACK
from vlp.train import train_recipe

TASKS = ("emoji24", "clipart-folders")
PLAIN = "clean"
FROM_SCRATCH: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "CLAE": ("strategies.adversarial_images={epsilon: 4, steps: 1, warmup_steps: 100}",),
    "PGD contrast": ("strategies.adversarial_images={epsilon: 4, steps: 3, warmup_steps: 100}",),
}
TUNED = "FARE of clean"
TUNING = (
    "data.workers=0",
    "strategies.fare={epsilon: 4, step_size: 1, steps: 10}",
    "optimizer.learning_rate=1e-4",
    "train={epochs: null, batch_size: 128, micro_batches: 1, precision: float32}",
)
WAYS = FROM_SCRATCH | {TUNED: TUNING}
WHAT = (
    "Accuracy in percent, mean over seeds (standard deviation): on clean images, and what is left of it within balls "
    "of some 255ths, each image as that attack left it that did worst to it. Cost: processor minutes of a training; "
    "the clean one that FARE starts from is not counted."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and attack what is not there yet, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    seeds = range(parsed.seeds)
    runs = {way: [trained_in(way, seed, parsed) for seed in seeds] for way in parsed.ways}
    records = {way: [attacked(run, parsed.attacks, parsed.tasks) for run in each] for way, each in runs.items()}
    costs = {way: fmean(minutes_in(cost_of(run)) for run in each) for way, each in runs.items()}
    pages = [f"**{task}**\n\n{markdown(table(task, records, costs))}" for task in parsed.tasks]
    settings = {way: WAYS[way] for way in parsed.ways}
    told = [["way", "settings"], *([way, f"`{' '.join(each) or '-'}`"] for way, each in settings.items())]
    tuned_for = f", {parsed.steps} steps of FARE" if TUNED in parsed.ways else ""
    what = f"{parsed.seeds} seeds, {parsed.samples:,} pairs from scratch{tuned_for}. {WHAT}"
    sections = [what, *pages, *failed_gates(records), markdown(told)]
    data = {way: [[vars(row) for row in rows_of(record)] for record in each] for way, each in records.items()}
    words = command_line("robust_proof", arguments)
    name = "-".join(["robust-proof", *(parsed.tasks if len(parsed.tasks) < len(TASKS) else ())])
    page = write_page(parsed.to, name, "Trained against an adversary", words, sections, data)
    print("\n\n".join([*pages, f"-> {page}"]))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.robust_proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="default: all", metavar="WAY")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="default: all", metavar="TASK")
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=60_000, help="of each training; default: %(default)s")
    parser.add_argument("--steps", type=int, default=100, help="of FARE, of 128 pairs; default: %(default)s")
    parser.add_argument("--attacks", default="standard", help="as for `vlp robust`; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="of each training; default: %(default)s")
    parser.add_argument("--runs", type=Path, default=Path("runs/robust"), help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    add_quick(parser, seeds=1, samples=256, steps=2, attacks="benchmarks/robust_try.yaml")
    return parser


def trained_in(way: str, seed: int, parsed: Any) -> Path:
    """Train in one way, and before that the clean model if that is where it starts; return the run."""
    start = from_scratch(PLAIN if way == TUNED else way, seed, parsed)
    return tuned(seed, start, parsed) if way == TUNED else start


def from_scratch(way: str, seed: int, parsed: Any) -> Path:
    """Train the quickstart's model in one way, unless that was done, and return the run."""
    settings = (*common(way, seed, parsed), f"train.samples={parsed.samples}", *FROM_SCRATCH[way])
    return trained("quickstart", settings)


def tuned(seed: int, start: Path, parsed: Any) -> Path:
    """Fine-tune a clean model, unless that was done, and return the run."""
    own = (f"model.weights={start}", "data.train=embedded", f"train.steps={parsed.steps}", "evaluation.before=false")
    return trained("finetune_fare", (*common(TUNED, seed, parsed), *TUNING, *own))


def common(way: str, seed: int, parsed: Any) -> tuple[str, ...]:
    """Return what all trainings are told."""
    name = f"name={way.replace(' ', '-')}-{seed}"
    evaluation = (f"evaluation.tasks=[{', '.join(TASKS)}]", "evaluation.every=null")
    return name, f"runs={parsed.runs}", f"seed={seed}", f"train.threads={parsed.threads}", *evaluation


def trained(recipe: str, settings: Sequence[str]) -> Path:
    """Train, unless that was done, and return the run; beside it stands what it cost, unless it was interrupted."""
    whole = load_recipe(recipe, settings)
    return timed(cost_of(whole.folder), lambda: train_recipe(whole, resume=True))


def cost_of(run: Path) -> Path:
    """Return the file of the seconds of processor time that a training took."""
    return run.with_name(f"{run.name}.seconds")


def attacked(run: Path, attacks: str, tasks: Sequence[str]) -> dict[str, Any]:
    """Attack a run, and return the record; what the same attacks found before is taken as it is."""
    folder = newest(run) / UNDER_ATTACK
    attack_model(str(run), tasks, attacks, folder, resume=True)
    return json.loads((folder / ROBUST_RECORD).read_text(encoding="utf-8"))


def table(task: str, records: Mapping[str, Sequence[Mapping[str, Any]]], costs: Mapping[str, float]) -> Table:
    """Return accuracies of a task by radius, a row for each way."""
    by_way = {way: [scores(task, record) for record in each] for way, each in records.items()}
    columns = list(next(iter(by_way.values()))[0])
    rows = [["way", *columns, "minutes"]]
    for way, each in by_way.items():
        rows.append([way, *(spread([score[column] for score in each]) for column in columns), f"{costs[way]:.1f}"])
    return rows


def scores(task: str, record: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracies of a record in percent: clean, and the worst case at each radius."""
    found = {}
    for row in rows_of(record):
        if row.task == task and row.is_main and row.attack in (CLEAN, WORST):
            found[row.radius or CLEAN] = 100 * row.value
    return found


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation, if there are several."""
    return f"{fmean(values):.1f} ({stdev(values):.1f})" if len(values) > 1 else f"{values[0]:.1f}"


def failed_gates(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return a section about gates that did not hold, if there are any."""
    lines = [
        f"- {way}, seed {seed}, {task['task']}: {gate['name']}: {gate['said']}"
        for way, each in records.items()
        for seed, record in enumerate(each)
        for task in record["tasks"]
        for gate in task["gates"]
        if not gate["is_passed"]
    ]
    return ["Gates that did not hold, whose numbers are not to be believed:\n\n" + "\n".join(lines)] if lines else []


if __name__ == "__main__":
    main()
