"""What two pretrained towers learn from the shipped pairs, way by way, and what a small model learns from them.

    pip install 'vlp[embedded]'
    python -m benchmarks.embedded_proof
    python -m benchmarks.embedded_proof --quick --to runs/try

The towers are those of `recipes/lit_embedded.yaml`: an image tower of ImageNet and a text tower of sentences. The way
of reference is locked-image tuning with plain contrast; beside it stand continuously weighted contrast, towers that
are both locked under a head that learns, and a small dual encoder from scratch, with and without the first model as its
teacher. From scratch and taught take the same time, the teacher's included. All ways are compared on the same samples
(`vlp compare`: paired, seeds and samples resampled together). Runs stay in the folder, and are not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.dated_report import command_line, write_page
from benchmarks.more_pairs import add_more, more_settings, theme_with_more, words_of_more
from benchmarks.processor_time import minutes_in, timed
from benchmarks.quick import add_quick, settle
from benchmarks.seeds import compared, table_of
from benchmarks.tables import markdown
from vlp.embeddings.embed_views import embed_views
from vlp.recipe.compose import load_recipe
from vlp.train import train_recipe

TASKS = ("emoji24", "clipart-folders", "photos-cc0", "emoji-retrieval", "clipart-retrieval")
REFERENCE = "LiT"
LOCKED: dict[str, tuple[str, ...]] = {
    REFERENCE: (),
    "LiT, CWCL": ("objective={clip: null, cwcl: {}}",),
    "both locked, a head learns": (
        "model={tune: {type: last_blocks, image: null, text: 0}}",
        "optimizer.layer_decay=1.0",
    ),
}
"""Settings of `lit_embedded`."""
SMALL = ("from scratch", "taught")
TAUGHT = ("objective.feature_distillation={weight: 10.0}", "objective.soft_targets={teacher_scale: 20}")
WHAT = (
    "Accuracy and recall at 1 in percent, means over seeds. Of the classes of `photos-cc0` training has seen other "
    "photographs or none; `emoji24` and `clipart-folders` are drawings of held-out styles and categories."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not there yet, compare, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    seeds = range(parsed.seeds)
    folders = {way: [lit(way, seed, parsed) for seed in seeds] for way in (LOCKED if parsed.towers else ())}
    if parsed.small:
        teacher = lit(REFERENCE, 0, parsed)
        folders |= {way: [small(way, seed, teacher, parsed) for seed in seeds] for way in SMALL}
    rows = table_of(folders, TASKS)
    pages = [
        f"**{way}** (B) beside **{beside}** (A)\n\n{compared(folders[beside], folders[way])}"
        for way, beside in comparisons(folders)
    ]
    words = command_line("embedded_proof", arguments)
    told = [["way", "settings"], *([way, f"`{' '.join(each) or '-'}`"] for way, each in LOCKED.items())]
    what = f"{parsed.seeds} seeds. Pretrained towers, the teacher's too, see {parsed.samples:,} pairs."
    minutes = ", ".join(f"{way} {minutes_of(way, seeds, parsed):.1f}" for way in SMALL if way in folders)
    small_ones = (
        f"The small model sees {parsed.scratch:,} pairs from scratch and {parsed.taught:,} with a teacher, both of "
        f"`{parsed.pairs}` alone. What the teacher says of one epoch of views ({' '.join(TAUGHT)}) is stored and shown "
        f"again. Minutes of processor time each, that included: {minutes}."
    )
    sections = [
        f"{what}{words_of_more(parsed)} {WHAT}",
        *([small_ones] if parsed.small else []),
        markdown(rows),
        *pages,
    ]
    sections += [markdown(told)] if parsed.towers else []
    title = "Two pretrained towers, and what a small model learns from them"
    theme = theme_with_more("embedded" if parsed.towers else "embedded-small", parsed)
    page = write_page(parsed.to, theme, title, words, sections, {"rows": rows})
    print(f"{markdown(rows)}\n-> {page}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.embedded_proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=20_000, help="of pretrained towers; default: %(default)s")
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--towers", action=switch, default=True, help="compare the ways of the pretrained towers")
    parser.add_argument("--small", action=switch, default=True, help="compare the small model, with and without")
    parser.add_argument("--scratch", type=int, default=120_000, help="from scratch; default: %(default)s")
    parser.add_argument("--taught", type=int, default=40_000, help="with a teacher; default: %(default)s")
    parser.add_argument("--pairs", default="embedded", help="that the small model sees; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="of each training; default: %(default)s")
    parser.add_argument("--runs", type=Path, default=Path("runs/embedded"), help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    add_more(parser)
    add_quick(parser, seeds=1, samples=512, scratch=512, taught=512, pairs="embedded-photos")
    return parser


def lit(way: str, seed: int, parsed: Any) -> Path:
    """Train the pretrained towers in one way, unless that was done, and return the run."""
    length = f"train.samples={parsed.samples}"
    settings = (*common(way, seed, parsed), *more_settings(parsed), length, *LOCKED[way])
    return train_recipe(load_recipe("lit_embedded", settings), resume=True)


def small(way: str, seed: int, teacher: Path, parsed: Any) -> Path:
    """Train the quickstart's model, with or without a teacher, unless that was done, and return the run.

    Beside it stands what it cost, the teacher's answers included, unless it was interrupted.
    """
    return timed(cost_of(way, seed, parsed), lambda: train_small(way, seed, teacher, parsed))


def cost_of(way: str, seed: int, parsed: Any) -> Path:
    """Return the file of the seconds of processor time that a small model took."""
    return Path(parsed.runs, f"{name_of(way, seed)}.seconds")


def minutes_of(way: str, seeds: Sequence[int], parsed: Any) -> float:
    """Return the mean cost of a small model."""
    return fmean(minutes_in(cost_of(way, seed, parsed)) for seed in seeds)


def train_small(way: str, seed: int, teacher: Path, parsed: Any) -> Path:
    """Train the quickstart's model, unless that was done."""
    samples = parsed.taught if way == "taught" else parsed.scratch
    length = (f"train.samples={samples}", "evaluation.every=null")
    settings = (*common(way, seed, parsed), *length, f"data.train={parsed.pairs}")
    if way != "taught":
        return train_recipe(load_recipe("quickstart", settings), resume=True)
    said = parsed.runs / f"said-{seed}"
    recipe = load_recipe("quickstart", (*settings, TAUGHT[0]))
    embed_views(str(teacher), [parsed.pairs], said, recipe, epochs=1)
    stored = f"strategies.stored_teacher={{folders: [{said}], cycle: true}}"
    return train_recipe(load_recipe("quickstart", (*settings, *TAUGHT, stored)), resume=True)


def common(way: str, seed: int, parsed: Any) -> tuple[str, ...]:
    """Return what all trainings are told."""
    name = name_of(way, seed)
    tasks = f"evaluation.tasks=[{', '.join(TASKS)}]"
    return f"name={name}", f"runs={parsed.runs}", f"seed={seed}", f"train.threads={parsed.threads}", tasks


def name_of(way: str, seed: int) -> str:
    """Return what a run is called."""
    return f"{way.replace(',', '').replace(' ', '-')}-{seed}"


def comparisons(all_ways: Collection[str]) -> list[tuple[str, str]]:
    """Return what is compared with what: ways of the towers with the first, a taught model with one from scratch."""
    ways = [way for way in all_ways if way not in (REFERENCE, "taught")] if REFERENCE in all_ways else []
    like = [("taught", "from scratch")] if "taught" in all_ways else []
    return [*((way, REFERENCE) for way in ways), *like]


if __name__ == "__main__":
    main()
