"""What a step against an adversary costs on the CPU, counted in passes of the image tower and timed beside plain ones.

    python -m benchmarks.bench_adversarial
    python -m benchmarks.bench_adversarial --towers ViT-S-32 --pairs 8 --rounds 3
    python -m benchmarks.bench_adversarial --quick --to runs/try

A pass is forward and backward, as a plain step takes one. An attack of k steps may add k of them, and one more where
the changed images stand beside the clean ones. Images on their way through the tower are counted, forward; so are the
operations of the whole step beyond those of a plain one: the attack needs no gradients of weights.

Two trainings are there at a time, the plain one and that of a case: each has weights, their gradients and two moments
of Adam, which of ViT-B-32 are 2.4 GB. The report names the most memory that the process has had.
"""

from __future__ import annotations

import argparse
import gc
import resource
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.bench_finetune import seconds_of
from benchmarks.dated_report import command_line, write_page
from benchmarks.gpu.steps import TINY, synthetic_parts
from benchmarks.quick import add_quick, settle
from benchmarks.tables import Table, markdown, ratio, slug, spread
from vlp import train
from vlp.ground.types import Batch
from vlp.plan.counts import tower_costs
from vlp.run.assemble import Run

PLAIN = "no adversary"
FARE = (
    "model.freeze=[text]",
    "model.learn_scale=false",
    "objective={clip: {weight: 0.0}, feature_distillation: {}}",
    "strategies.fare={epsilon: 2, steps: 10}",
)
CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    PLAIN: (0, ()),
    "1 step, changed alone": (1, ("strategies.adversarial_images={steps: 1, clean_weight: 0.0}",)),
    "1 step, clean and changed": (1, ("strategies.adversarial_images={steps: 1}",)),
    "3 steps, changed alone": (3, ("strategies.adversarial_images={steps: 3, clean_weight: 0.0}",)),
    "3 steps, clean and changed": (3, ("strategies.adversarial_images={steps: 3}",)),
    "FARE, 10 steps": (10, FARE),
}
"""Steps of the attack, and settings."""
WHAT = (
    "Forward: times that an image goes through the tower being trained, beside the plain step's once (teachers and "
    "texts are not among them). Operations: of the step beyond those of the plain one, in passes of the image tower, "
    "without the captions that attacks embed once, forward; allowed are k + 1. Seconds of processor time, one thread, "
    "float32, median (p10 .. p90); a ratio is to the plain steps between those of the case."
)


@dataclass
class Attacked:
    """One case, measured.

    Args:
        steps: Of the attack.
        forward: Times that an image goes through the image tower in a step.
        operations: Of a step, but for forward passes of the text tower.
        image: Operations of one pass of the image tower over the batch.
        seconds: Of each step.
        beside: Of the plain steps between them.
    """

    case: str
    steps: int
    forward: float
    operations: float
    image: float
    seconds: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all cases, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(parsed.towers, parsed.pairs, parsed.rounds, Path(scratch))
    words = command_line("bench_adversarial", arguments)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    about = (
        f"Towers: {parsed.towers}; {parsed.pairs} pairs, captions of 17 tokens on average. At most {memory:.1f} GiB of "
        "memory."
    )
    sections = [WHAT, about, markdown(table(found))]
    title = f"Steps of {parsed.towers} against an adversary"
    theme = f"adversarial-{slug(parsed.towers)}"  # a page of its own for each size
    page = write_page(parsed.to, theme, title, words, sections, [asdict(each) for each in found])
    print(f"{markdown(table(found))}\n-> {page}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.bench_adversarial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--towers", default="ViT-B-32", help="an open_clip name, or toy; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=16, help="in a batch; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=6, help="of a step of each case; default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    add_quick(parser, towers="toy", pairs=8, rounds=2)
    return parser


def measure(towers: str, pairs: int, rounds: int, scratch: Path) -> list[Attacked]:
    """Take steps of each case in turns with plain ones; the first round warms up."""
    plain, plain_step = prepared(PLAIN, towers, pairs, scratch)
    found = [plain]
    for case in tqdm([case for case in CASES if case != PLAIN], desc=towers, unit="case", disable=None):
        each, step = prepared(case, towers, pairs, scratch)
        for number in range(rounds + 1):
            beside, seconds = seconds_of(plain_step), seconds_of(step)
            if number:
                each.beside.append(beside)
                each.seconds.append(seconds)
        plain.seconds += each.beside
        found.append(each)
        del step
        gc.collect()  # a run refers to itself
    plain.beside = plain.seconds
    return found


def prepared(case: str, towers: str, pairs: int, scratch: Path) -> tuple[Attacked, Callable[[], object]]:
    """Return a case, its first step counted, and what takes further ones."""
    attack, settings = CASES[case]
    run, batch = ready(slug(case), towers, pairs, settings, scratch)
    step = partial(_step, run, batch, count())
    image, _, _ = tower_costs(run.towers, batch.tokens.shape[-1], None)
    return Attacked(case, attack, *counted(run, step), pairs * image.operations), step


def ready(label: str, towers: str, pairs: int, settings: Sequence[str], scratch: Path) -> tuple[Run, Batch]:
    """Assemble a recipe with towers that start at random, which costs the same."""
    named = [f"model.{side}.name={towers}" for side in ("image", "text")]
    settings = [*(TINY if towers == "toy" else named), *settings, "train.precision=float32", "train.threads=1"]
    return synthetic_parts("vitb32_clip", scratch, pairs, "cpu", settings, label=label)


def counted(run: Run, step: Callable[[], object]) -> tuple[float, float]:
    """Return how often an image of the batch goes through the image tower in a step, and the step's operations."""
    seen: list[int] = []
    texts: list[int] = []
    counter: Any = FlopCounterMode(display=False)

    def see(_tower: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():  # a teacher on the same modules needs none
            seen.append(len(inputs[0]))

    text = run.towers.core.text
    hooks = [
        run.towers.core.visual.register_forward_pre_hook(see),
        text.register_forward_pre_hook(lambda *_: texts.append(-counter.get_total_flops())),
        text.register_forward_hook(lambda *_: texts.append(counter.get_total_flops())),
    ]
    with counter:
        step()
    for hook in hooks:
        hook.remove()
    return sum(seen) / run.recipe.train.batch_size, float(counter.get_total_flops() - sum(texts))


def table(found: Sequence[Attacked]) -> Table:
    """Return what was found, a row for each case; the first is the plain step."""
    plain = found[0]
    rows = [
        [
            each.case,
            f"{each.forward:.0f}",
            f"{beyond(each, plain):.2f}",
            str(each.steps + 1),
            spread(each.seconds),
            f"{ratio(each.seconds, each.beside):.2f}",
        ]
        for each in found
    ]
    return [["case", "forward", "operations", "allowed", "seconds", "ratio"], *rows]


def beyond(each: Attacked, plain: Attacked) -> float:
    """Return the operations of a case beyond those of the plain step, in passes of the image tower."""
    return (each.operations - plain.operations) / plain.image


def _step(run: Run, batch: Batch, number: count[int]) -> None:
    train.one_step(run, batch, next(number))


if __name__ == "__main__":
    main()
