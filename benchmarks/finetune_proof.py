"""What fine-tuning gains and what it keeps, way by way: a model of drawings learns from 177 photographs, three seeds.

    python -m benchmarks.finetune_proof
    python -m benchmarks.finetune_proof --quick --to runs/try

The start is a small dual encoder that has seen the shipped drawings alone. Each way trains on the shipped photographs
for as many steps. Its own score is that on photographs of other subjects, its kept scores are those on drawings; every
way is compared with the start on the same samples (`vlp compare`: paired, seeds and samples resampled together). Runs
stay in the folder, and are not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.dated_report import command_line, write_page
from benchmarks.more_pairs import add_more, more_settings, theme_with_more, words_of_more
from benchmarks.quick import add_quick, settle
from benchmarks.seeds import compared, mean_score, table_of
from benchmarks.tables import Table, markdown
from vlp.evaluate import evaluate_models
from vlp.merging.merge import merge
from vlp.recipe.compose import load_recipe
from vlp.run.checkpoint import latest
from vlp.train import train_recipe

OWN, KEPT = "photos-cc0", ("emoji24", "clipart-folders")
FULL = "full"  # the way that others are compared with
CAPTIONS = (
    "data.captions={separator: ',', wording: {first: 0.25, all: 0.1, one: 0.5, some: 0.15}, lower: true, templates: "
    "['a picture of a {}.', 'a drawing of a {}.', 'an emoji of a {}.', 'clip art of a {}.', 'a photo of a {}.']}"
)
START = (
    "name=start",
    "data.train={embedded-photos: null}",
    "model.embed_dim=128",
    "model.image={type: vit, layers: 4, width: 128, head_width: 32, patch_size: 8, image_size: 48}",
    "model.image.patch_dropout=0.25",
    "model.text={type: transformer, layers: 2, width: 128, heads: 4, context_length: 24}",
    "optimizer.learning_rate=1e-3",
    f"evaluation={{tasks: [{', '.join((OWN, *KEPT))}], every: null, weights: ema}}",
)
TUNING = (
    CAPTIONS,
    "data.train=embedded-photos",
    "data.workers=0",
    "train={epochs: null, batch_size: 64, micro_batches: 1, precision: float32, threads: 1}",
    "model.image.patch_dropout=0.0",
)
WAYS: dict[str, tuple[str, ...]] = {
    FULL: ("optimizer={layer_decay: 1.0, decay_towards: zero}", "optimizer.learning_rate=3e-4"),
    "layer decay": ("optimizer={layer_decay: 0.7, decay_towards: zero}", "optimizer.learning_rate=3e-4"),
    "towards the start": (
        "optimizer={layer_decay: 1.0, decay_towards: start, weight_decay: 100.0}",
        "optimizer.learning_rate=3e-4",
    ),
    "LoRA": ("model.tune={type: lora}", "optimizer={learning_rate: 1e-3, layer_decay: 1.0, weight_decay: 0.0}"),
    "heads": ("model.tune=heads", "optimizer={learning_rate: 1e-3, layer_decay: 1.0}"),
    "start as teacher": (
        "optimizer={layer_decay: 1.0, decay_towards: zero}",
        "optimizer.learning_rate=3e-4",
        "strategies={dual_teacher: {decay: 1.0, warmup: false}}",
        "objective={clip: {mask_duplicates: true}, feature_distillation: {weight: 10.0}}",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not there yet, compare, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    start = parsed.start
    if start is None:
        length = (f"runs={parsed.runs}", f"train.samples={parsed.samples}")
        start = train_recipe("quickstart", *START, *more_settings(parsed), *length, resume=True)
    folders = {way: [tune(way, seed, start, parsed) for seed in range(parsed.seeds)] for way in WAYS}
    folders[f"WiSE-FT of {FULL}"] = [between(start, folder, parsed.runs) for folder in folders[FULL]]
    rows = table({"start": [start], **folders})
    pages = [f"**{way}** (B) beside the start (A)\n\n{compared([start], runs)}" for way, runs in folders.items()]
    others = [way for way in folders if way != FULL]
    pages += [f"**{way}** (B) beside **{FULL}** (A)\n\n{compared(folders[FULL], folders[way])}" for way in others]
    words = command_line("finetune_proof", arguments)
    seen = 0 if (found := latest(start)) is None else found.position
    what = f"{parsed.seeds} seeds of {parsed.steps} steps of 64 pairs; a start that saw {seen:,} drawings."
    settings = [["way", "settings"], *([way, f"`{' '.join(told)}`"] for way, told in WAYS.items())]
    page = write_page(
        parsed.to,
        theme_with_more("forgetting", parsed),
        "Gained and kept",
        words,
        [f"{what}{words_of_more(parsed)} {WHAT}", markdown(rows), *pages, markdown(settings)],
        {"rows": rows},
    )
    print(f"{markdown(rows)}\n-> {page}")


WHAT = (
    "Accuracies in percent, means over seeds. Own: photographs of 15 classes, of which training has seen other "
    "pictures or none. Kept: drawings, which the start was trained on."
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.finetune_proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=160_000, help="that the start sees; default: %(default)s")
    parser.add_argument("--start", type=Path, help="a run on drawings; default: it is trained")
    parser.add_argument("--steps", type=int, default=60, help="of fine-tuning; default: %(default)s")
    parser.add_argument("--runs", type=Path, default=Path("runs/forgetting"), help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    add_more(parser)
    add_quick(parser, seeds=1, samples=1_024, steps=2)
    return parser


def tune(way: str, seed: int, start: Path, parsed: Any) -> Path:
    """Fine-tune the start in one way, unless that was done, and return the run."""
    name = f"{way.replace(' ', '-')}-{seed}"
    settings = (f"name={name}", f"runs={parsed.runs}", f"model.weights={start}", f"seed={seed}", *TUNING, *WAYS[way])
    length = (f"train.steps={parsed.steps}", f"evaluation.every={parsed.steps}", "evaluation.before=false")
    return train_recipe(load_recipe("finetune", (*settings, *length)), resume=True)


def between(start: Path, end: Path, runs: Path) -> Path:
    """Score the model half-way between the start and a tuned one (WiSE-FT), and return the scores."""
    to = runs / f"half-{end.name}"
    if not to.exists():
        merge([str(start), str(end)], to, shares=[0.5, 0.5])
    scores = to.with_name(f"{to.name}-scores")
    evaluate_models([str(to)], [OWN, *KEPT], scores, resume=True)
    return scores


def table(folders: dict[str, list[Path]]) -> Table:
    """Return the mean accuracy over seeds, a row for each way."""
    head, *rows = table_of(folders, (OWN, *KEPT))
    means = [fmean(mean_score(runs, task) for task in KEPT) for runs in folders.values()]
    names = [f"{'own' if task == OWN else 'kept'}: {task}" for task in head[1:]]
    return [["way", *names, "kept, mean"], *([*row, f"{mean:.1f}"] for row, mean in zip(rows, means, strict=True))]


if __name__ == "__main__":
    main()
