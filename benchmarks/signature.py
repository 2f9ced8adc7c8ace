"""The whole sum beside plain contrast: gap terms and continuously weighted contrast, on the shipped pairs.

    python -m benchmarks.signature --search      # one seed of each candidate, scored where the choice is made
    python -m benchmarks.signature               # the chosen one beside plain contrast, three seeds
    python -m benchmarks.signature --quick --to runs/try

The full objective is symmetric contrast (InfoNCE), alignment, uniformity and cross-uniformity against the modality gap
(Fahim et al. 2024, arXiv:2405.18570) and continuously weighted contrast (Srinivasa et al. 2023, arXiv:2309.14580),
whose reference features come from averaged weights, as nothing is locked here. Candidates differ in weights, schedules
and kernel. They are chosen on `emoji24` and `emoji-retrieval` and judged on the other sets. Runs stay in the folder,
and are not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.dated_report import command_line, write_page
from benchmarks.quick import add_quick, settle
from benchmarks.seeds import compared, mean_metric, mean_score
from benchmarks.tables import Table, markdown
from vlp.recipe.compose import load_recipe
from vlp.train import train_recipe

CHOOSING = ("emoji24", "emoji-retrieval")
JUDGING = ("clipart-folders", "photos-cc0", "clipart-retrieval")
GEOMETRY = ("modality_gap", "uniformity_image", "uniformity_text", "alignment")
PLAIN, CHOSEN = "plain contrast", "signature"


def full(alignment: str, uniformity: str, cross: str, cwcl: str, clip: float = 0.5) -> str:
    """Return the objective with the weights of the three terms of the gap, and the settings of CWCL."""
    weights = {"alignment": alignment, "uniformity": uniformity, "cross_uniformity": cross}
    gaps = ", ".join(f"{name}: {{weight: {weight}}}" for name, weight in weights.items())
    return f"objective={{clip: {{mask_duplicates: true, weight: {clip}}}, {gaps}, cwcl: {{{cwcl}}}}}"


def sharp(mix: float, weight: str = "1.0") -> str:
    """Return the settings of CWCL with a kernel that keeps near-duplicates only."""
    return f"kernel: exp, kernel_temperature: 0.07, reduction: mean, mix: {mix}, weight: {weight}"


TEACHER = "strategies.ema_teacher={decay: 0.99}"
LATE = "{start: 0.0, end: 1.0, first_step: 150, last_step: 300}"
CANDIDATES: dict[str, tuple[str, ...]] = {
    "gap 0.1, exp kernel, a third": (full("0.1", "0.1", "0.1", sharp(0.3)), TEACHER),
    "gap 0.02, exp kernel, a tenth": (full("0.02", "0.02", "0.02", sharp(0.1)), TEACHER),
    "alignment first, exp kernel, a tenth": (full("0.5", "0.1", "0.02", sharp(0.1)), TEACHER),
    "alignment twice uniformity, a tenth": (full("0.1", "0.05", "0.005", sharp(0.1, "0.25"), 1.0), TEACHER),
    "alignment first, exp kernel, a third, late": (full("0.25", "0.05", "0.01", sharp(0.3, LATE), 1.0), TEACHER),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not there yet, compare, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    ways: Mapping[str, tuple[str, ...] | None] = (
        {PLAIN: (), **CANDIDATES} if parsed.search else {PLAIN: (), CHOSEN: None}
    )
    seeds = range(1 if parsed.search else parsed.seeds)
    folders = {way: [run(way, settings, seed, parsed) for seed in seeds] for way, settings in ways.items()}
    rows = table(folders, CHOOSING if parsed.search else (*CHOOSING, *JUDGING))
    words = command_line("signature", arguments)
    what = (
        f"Seeds: {len(seeds)}; {parsed.samples:,} pairs each. Scores in percent, means over seeds; then the geometry."
    )
    told = [["way", "settings"], *([way, f"`{' '.join(settings or ())}`"] for way, settings in ways.items())]
    pages = [] if parsed.search else [f"Plain (A), whole (B)\n\n{compared(folders[PLAIN], folders[CHOSEN])}"]
    theme = "signature-search" if parsed.search else "signature"
    page = write_page(
        parsed.to,
        theme,
        "The whole sum beside plain contrast",
        words,
        [what, markdown(rows), *pages, markdown(told)],
        {"rows": rows},
    )
    print(f"{markdown(rows)}\n-> {page}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.signature",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--search", action="store_true", help="one seed of each candidate, instead of the chosen one")
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=120_000, help="of each training; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="of each training; default: %(default)s")
    parser.add_argument("--runs", type=Path, default=Path("runs/signature"), help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    add_quick(parser, seeds=1, samples=512)
    return parser


def run(way: str, settings: tuple[str, ...] | None, seed: int, parsed: Any) -> Path:
    """Train the quickstart's model with an objective, unless that was done, and return the run.

    Args:
        settings: On top of the quickstart; None takes `recipes/signature.yaml`.
    """
    name = f"{way.replace(',', '').replace(' ', '-')}-{seed}"
    tasks = ", ".join((*CHOOSING, *JUDGING, "geometry"))
    length = (f"train.samples={parsed.samples}", f"train.threads={parsed.threads}")
    common = (f"name={name}", f"runs={parsed.runs}", f"seed={seed}", *length)
    recipe = "signature" if settings is None else "quickstart"
    evaluation = (f"evaluation.tasks=[{tasks}]", "evaluation.every=null")
    return train_recipe(load_recipe(recipe, (*common, *evaluation, *(settings or ()))), resume=True)


def table(folders: Mapping[str, Sequence[Path]], tasks: Sequence[str]) -> Table:
    """Return scores and geometry, a row for each way."""
    rows = [["way", *tasks, *GEOMETRY]]
    for way, runs in folders.items():
        scores = [f"{mean_score(runs, task):.1f}" for task in tasks]
        rows.append([way, *scores, *(f"{mean_metric(runs, 'geometry', name):.3f}" for name in GEOMETRY)])
    return rows


if __name__ == "__main__":
    main()
