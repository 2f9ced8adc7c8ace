"""What fine-tuning against an adversary does to clean images, beside a control without one; and what a purifier brings.

    python -m benchmarks.robust_controls
    python -m benchmarks.robust_controls --quick --to runs/try

The clean models of `benchmarks.robust_proof` are fine-tuned in several ways and compared with themselves, image by
image, on all images of each task: FARE as there, with larger changes, at ten times the learning rate, and with no
changes to speak of, which has the same steps, images and learning rate; and auto-encoders in front of the frozen model,
by contrast (arXiv:2504.10850) and by distance. Runs and what attacks found stay in the folder, and are not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.dated_report import command_line, write_page
from benchmarks.quick import add_quick, settle
from benchmarks.robust_proof import (
    PLAIN,
    TASKS,
    TUNING,
    attacked,
    common,
    failed_gates,
    from_scratch,
    scores,
    spread,
    trained,
)
from benchmarks.seeds import compared, mean_score
from benchmarks.tables import Table, markdown
from vlp.evaluators.base import load_task
from vlp.evaluators.dataset import open_set
from vlp.robust.robust_table import rows_of
from vlp.run.subject import find_subject

PURIFIER = (
    "model.tune.width=16",
    "strategies.fare={epsilon: 4, step_size: 2, steps: 3}",
    "train={epochs: null, batch_size: 48, micro_batches: 1, precision: float32}",
    "data.workers=0",
)
DISTANCE = ("strategies.fare.attack=distance", "objective={feature_contrast: null, feature_distillation: {}}")
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "FARE": ("finetune_fare", TUNING),
    "FARE at 8": ("finetune_fare", (*TUNING, "strategies.fare={epsilon: 8, step_size: 2}")),
    "FARE faster": ("finetune_fare", (*TUNING, "optimizer.learning_rate=1e-3")),
    "FARE of nothing": ("finetune_fare", (*TUNING, "strategies.fare={epsilon: 0.001, step_size: 0.001, steps: 1}")),
    "purifier": ("finetune_purifier", PURIFIER),
    "purifier by distance": ("finetune_purifier", (*PURIFIER, *DISTANCE)),
}
"""By what they are called: the recipe, and settings."""
WHAT = (
    "Accuracy in percent, mean over seeds (standard deviation). `clean` and the radii: of the attacked images, each as "
    "that attack left it that did worst to it; `all`: of all images of the task, clean. Moved: mean squared distance "
    "of the unit embeddings of all its clean images from where the clean model has them."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and attack what is not there yet, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    torch.set_num_threads(parsed.threads)
    starts = [from_scratch(PLAIN, seed, parsed) for seed in range(parsed.seeds)]
    runs = {PLAIN: starts}
    runs |= {way: [tuned(way, seed, start, parsed) for seed, start in enumerate(starts)] for way in parsed.ways}
    records = {way: [attacked(run, parsed.attacks, TASKS) for run in each] for way, each in runs.items()}
    pages = [f"**{task}**\n\n{markdown(table(task, runs, records))}" for task in TASKS]
    pairs = [f"**{PLAIN} and {way}, image by image**\n\n{compared(starts, runs[way])}" for way in parsed.ways]
    told = [["way", "recipe", "settings"], *([way, WAYS[way][0], f"`{' '.join(WAYS[way][1])}`"] for way in parsed.ways)]
    lengths = f"{parsed.steps} steps of {parsed.images} images of FARE, {parsed.purifying} of 48 of a purifier"
    what = f"{parsed.seeds} seeds, {parsed.samples:,} pairs from scratch, {lengths}. {WHAT}"
    data = {way: [[vars(row) for row in rows_of(record)] for record in each] for way, each in records.items()}
    sections = [what, *pages, *pairs, *failed_gates(records), markdown(told)]
    words = command_line("robust_controls", arguments)
    page = write_page(parsed.to, "robust-controls", "What robustness costs clean images", words, sections, data)
    print("\n\n".join([*pages, *pairs, f"-> {page}"]))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.robust_controls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="default: all", metavar="WAY")
    parser.add_argument("--seeds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=24_000, help="of each clean training; default: %(default)s")
    parser.add_argument("--steps", type=int, default=60, help="of FARE; default: %(default)s")
    parser.add_argument("--images", type=int, default=128, help="of a step of FARE; default: %(default)s")
    parser.add_argument("--purifying", type=int, default=100, help="steps of 48 images; default: %(default)s")
    attacks = "benchmarks/robust_controls.yaml"
    parser.add_argument("--attacks", default=attacks, help="as for `vlp robust`; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of each training; default: %(default)s")
    parser.add_argument("--runs", type=Path, default=Path("runs/robust"), help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    tried = {"seeds": 1, "samples": 256, "steps": 2, "purifying": 2, "attacks": "benchmarks/robust_try.yaml"}
    add_quick(parser, **tried)
    return parser


def tuned(way: str, seed: int, start: Path, parsed: Any) -> Path:
    """Fine-tune a clean model in one way, unless that was done, and return the run."""
    recipe, settings = WAYS[way]
    length = (f"train.steps={parsed.steps}", f"train.batch_size={parsed.images}")
    if recipe == "finetune_purifier":
        length = (f"train.steps={parsed.purifying}",)
    own = (f"model.weights={start}", "data.train=embedded", *length, "evaluation.before=false")
    return trained(recipe, (*common(way, seed, parsed), *settings, *own))


def table(task: str, runs: Mapping[str, Sequence[Path]], records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Return accuracies of a task, and how far its clean images have moved, a row for each way."""
    starts = [embedded(run, task) for run in runs[PLAIN]]
    rows: Table = []
    for way, each in runs.items():
        found = [scores(task, record) for record in records[way]]
        columns = [*found[0]]
        cells = [spread([score[column] for score in found]) for column in columns]
        rows.append([way, spread([mean_score([run], task) for run in each]), *cells, moved(each, starts, task)])
    return [["way", "all", *columns, "moved"], *rows]


def moved(runs: Sequence[Path], starts: Sequence[Tensor], task: str) -> str:
    """Return how far the clean images of a task have moved, in the mean over runs."""
    ways = [embedded(run, task) - start for run, start in zip(runs, starts, strict=True)]
    return f"{fmean(float(way.square().sum(dim=1).mean()) for way in ways):.3f}"


def embedded(run: Path, task: str) -> Tensor:
    """Return the unit embeddings of all images of a task."""
    encoder = find_subject(str(run)).encoder("cpu", batch_size=64)
    data = open_set(load_task(task).data)
    return encoder.embed_images(data.image(place) for place in range(len(data)))


if __name__ == "__main__":
    main()
