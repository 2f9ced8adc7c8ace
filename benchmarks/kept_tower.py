"""What a step costs while a locked tower embeds, and once what it says is kept, on the CPU.

    python -m benchmarks.kept_tower
    python -m benchmarks.kept_tower --quick --to runs/try

A step is all from a position in the data to moved weights, decoding included: without `train.keep_locked`, at the first
sight of its samples with it, and at the second, each on the same batches of the shipped pairs. One thread, one process.
Losses are compared with those without: of captions the last digits depend on how they are cut.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from benchmarks.dated_report import command_line, write_page
from benchmarks.gpu.steps import TINY, synthetic_recipe
from benchmarks.quick import add_quick, settle
from benchmarks.tables import Table, markdown, ratio, spread
from vlp import train
from vlp.ground.types import VlpWarning
from vlp.run.assemble import Run, assemble

LOCKED = {
    "image": ("model.freeze=[visual]", "data.crop={scale: [1, 1], flip: 0}"),
    "text": ("model.freeze=[text]",),
}
FULL = (("ViT-B-32", "image"), ("ViT-S-16", "image"), ("ViT-B-32", "text"))
QUICK: list[tuple[str | None, str]] = [(None, "image"), (None, "text")]


@dataclass(frozen=True)
class KeptTowerCost:
    """Seconds of processor time of each step.

    Args:
        towers: A name that open_clip knows; None for a toy.
        locked: The tower that is locked.
        without: Nothing is kept.
        first: Images, or captions, are embedded and kept.
        kept: They are kept.
        apart: Largest distance of a loss from that without, as a share of it; 0 is equal to the bit.
    """

    towers: str | None
    pairs: int
    locked: str
    without: list[float]
    first: list[float]
    kept: list[float]
    apart: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure case after case, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    torch.set_num_threads(1)
    found = [measure(towers, parsed.pairs, locked, parsed.steps) for towers, locked in parsed.cases]
    words = command_line("kept_tower", arguments)
    sections = [" ".join((__doc__ or "").strip().split("\n\n")[-1].split()), markdown(table(found))]
    page = write_page(parsed.to, "kept-tower", "Kept towers", words, sections, [asdict(each) for each in found])
    print(f"{markdown(table(found))}\n-> {page}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.kept_tower",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=32, help="of a step; default: %(default)s")
    parser.add_argument("--steps", type=int, default=12, help="of each kind; default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    parser.set_defaults(cases=FULL)
    add_quick(parser, cases=QUICK, pairs=8, steps=3)
    return parser


def measure(towers: str | None, pairs: int, locked: str, steps: int, overrides: Sequence[str] = ()) -> KeptTowerCost:
    """Time steps of a training with a locked tower, kept and not.

    Args:
        towers: A name that open_clip knows, with random weights; None for a toy.
        locked: `image` or `text`.
        steps: How many of each kind; one before them is not timed.
        overrides: Further settings, such as an objective.
    """
    names = TINY if towers is None else (f"model.image.name={towers}", f"model.text.name={towers}")
    options = [*names, *LOCKED[locked], "train.precision=float32", "train.threads=1", *overrides]
    times, losses = [], []
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="model.freeze", category=VlpWarning)  # random weights cost the same
        for keeps in (False, True):
            more = f"train.keep_locked={str(keeps).lower()}"
            recipe = synthetic_recipe("vitb32_clip", Path(scratch), pairs, [*options, more], label=f"kept_{keeps}")
            run = assemble(recipe, resume=False, allow_changes=False)
            run.kept.open(run.recipe, run.towers, run.claim.data, lambda _: None)
            for _ in range(2):
                seconds, values = walk(run, steps + 1)
                times.append(seconds[1:])
                losses.append(values)
    _, *wanted = times  # the second pass without, which is as warm as those with
    without, kept = ([*first, *second] for first, second in (losses[:2], losses[2:]))
    apart = max(abs(one - other) / abs(one) for one, other in zip(without, kept, strict=True))
    return KeptTowerCost(towers, pairs, locked, *wanted, apart=apart)


def walk(run: Run, steps: int) -> tuple[list[float], list[float]]:
    """Take steps from the first position on; return the seconds of processor time of each, and its loss."""
    batches, seconds, losses = run.stream.batches(0), [], []
    for number in range(steps):
        started = time.process_time()
        (batch,) = islice(batches, 1)
        report, _ = train.one_step(run, batch, number)
        losses.append(report["loss"].item())
        seconds.append(time.process_time() - started)
    batches.close()
    return seconds, losses


def table(found: Sequence[KeptTowerCost]) -> Table:
    """Return one line per case."""
    return [
        ["towers", "locked", "without", "first sight", "kept", "gain", "losses"],
        *(
            [
                f"{each.towers or 'toy'}, {each.pairs} pairs",
                each.locked,
                spread(each.without),
                spread(each.first),
                spread(each.kept),
                f"{ratio(each.without, each.kept):.2f} x",
                f"{each.apart:.0e} apart" if each.apart else "equal",
            ]
            for each in found
        ),
    ]


if __name__ == "__main__":
    main()
