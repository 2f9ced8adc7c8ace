"""What a step of an attack costs, beside torchattacks on the same model, the same samples and in the same rounds.

    python -m benchmarks.bench_robust
    python -m benchmarks.bench_robust --quick --to runs/try

A step is one gradient of an ascent, or one query of the Square attack. Both meet the same module, an image tower with
random weights before classes drawn at random, and what both leave right is counted beside the time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.bench_finetune import seconds_of
from benchmarks.dated_report import command_line, write_page
from benchmarks.quick import add_quick, settle
from benchmarks.tables import Table, markdown, ratio, spread
from vlp.attacks.ball import PIXEL_STEP
from vlp.robust.attacks.base import attacks
from vlp.robust.problem import Problem, margin
from vlp.towers.base import image_towers, text_towers
from vlp.towers.dual import DualEncoder
from vlp.towers.encoder import TowerEncoder

PEER = "torchattacks==3.5.1"
CLASSES, SCALE, RADIUS = 100, 100.0, 2 * PIXEL_STEP
WHAT = (
    "Seconds of processor time per step and image, one thread, float32, median (p10 .. p90); a ratio above 1 says how "
    "many times more theirs takes. Left: samples of a round that are still right afterwards; ours keeps the worst of "
    "all steps where theirs keeps the last one (PGD)."
)


@dataclass
class Timed:
    """One attack of both.

    Args:
        steps: How many of them a run takes.
        ours: Seconds per step and image, of each round, and `theirs`.
        left: Samples that ours and theirs leave right, in the last round.
    """

    attack: str
    steps: int
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    left: tuple[int, int] = (0, 0)


class Scores(nn.Module):
    """A problem as torchattacks takes a model: it asks for the device of a parameter."""

    def __init__(self, problem: Problem):
        super().__init__()
        self.problem = problem
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the scores of all classes."""
        return self.problem.scores(pixels)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all attacks in turns, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    torch.set_num_threads(1)
    sys.path.append(str(install(parsed.scratch / "package")))
    found = measure(parsed.tower, parsed.images, parsed.steps, parsed.rounds)
    words = command_line("bench_robust", arguments)
    about = f"Tower: {parsed.tower}; {parsed.images} images, {CLASSES} classes. Beside {PEER.replace('==', ' ')}."
    sections = [WHAT, about, markdown(table(found, parsed.images))]
    page = write_page(parsed.to, "robust", "Steps of attacks", words, sections, [asdict(each) for each in found])
    print(f"{markdown(table(found, parsed.images))}\n-> {page}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.bench_robust",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tower", default="ViT-B-32", help="an open_clip name, or toy; default: %(default)s")
    parser.add_argument("--images", type=int, default=8, help="in a batch; default: %(default)s")
    parser.add_argument("--steps", type=int, default=10, help="of each attack; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--scratch", type=Path, default=Path("runs/bench_robust"), help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    add_quick(parser, tower="toy", images=8, steps=5, rounds=2)
    return parser


def install(folder: Path) -> Path:
    """Fetch torchattacks into a folder, where it is not there yet, without what it would replace; return the folder."""
    if not (folder / "torchattacks").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), PEER]
        subprocess.run(command, check=True)
    return folder.resolve()


def measure(tower: str, images: int, steps: int, rounds: int) -> list[Timed]:
    """Run each attack of both in turns; the first round warms up."""
    problem, pixels = problem_of(tower, images)
    labels = problem.positives.long().argmax(dim=1)
    cases = {name: (Timed(name, steps), ours, theirs) for name, ours, theirs in pairs_of(problem, steps)}
    for number in tqdm(range(rounds + 1), desc=tower, unit="round", disable=None):
        for timed, ours, theirs in cases.values():
            spent, left = zip(*(_run(attack, problem, pixels, labels) for attack in (ours, theirs)), strict=True)
            timed.left = left[0], left[1]
            if number:
                timed.ours.append(spent[0] / steps / images)
                timed.theirs.append(spent[1] / steps / images)
    return [timed for timed, _, _ in cases.values()]


def _run(attack: Callable[..., Tensor], problem: Problem, pixels: Tensor, labels: Tensor) -> tuple[float, int]:
    """Return the seconds of an attack, and how many samples it leaves right."""
    found: list[Tensor] = []
    seconds = seconds_of(lambda: found.append(attack(pixels, labels)))
    return seconds, int((margin(problem.scores(found[0]), problem.positives) <= 0).sum())


def pairs_of(problem: Problem, steps: int) -> list[tuple[str, Callable[..., Tensor], Callable[..., Tensor]]]:
    """Return each attack that both have, by name: ours, and theirs."""
    import torchattacks

    model = Scores(problem).eval()
    peers: dict[str, tuple[dict[str, Any], Any]] = {
        "pgd": ({"steps": steps}, torchattacks.PGD(model, eps=RADIUS, alpha=RADIUS / 4, steps=steps)),
        "apgd_ce": ({"steps": steps}, torchattacks.APGD(model, eps=RADIUS, steps=steps, loss="ce")),
        "apgd_t": (
            {"steps": steps, "targets": 1},
            torchattacks.APGDT(model, eps=RADIUS, steps=steps, n_classes=2),
        ),
        "square": ({"queries": steps}, torchattacks.Square(model, eps=RADIUS, n_queries=steps)),
    }
    return [(name, partial(_ours, name, settings, problem), peer) for name, (settings, peer) in peers.items()]


def problem_of(tower: str, images: int) -> tuple[Problem, Tensor]:
    """Return an image tower with random weights before random classes, and images that it is right about."""
    torch.manual_seed(0)
    image: dict[str, Any] = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64}
    towers = (
        (image_towers.build("vit", image), text_towers.build("transformer", {"layers": 1, "width": 64, "heads": 2}))
        if tower == "toy"
        else (
            image_towers.build("open_clip", {"name": tower}),
            text_towers.build("open_clip", {"name": tower}),
        )
    )
    model = DualEncoder(*towers, embed_dim=64 if tower == "toy" else None).eval().requires_grad_(False)
    encoder = TowerEncoder(model)
    size = model.preprocess_cfg["size"]
    pixels = torch.rand(images, 3, size, size)
    classes = nn.functional.normalize(torch.randn(CLASSES, model.embed_dim), dim=1)
    with torch.no_grad():
        best = (encoder.embed_pixels(pixels) @ classes.T).argmax(dim=1)
    return Problem(encoder.embed_pixels, classes, nn.functional.one_hot(best, CLASSES).bool(), SCALE), pixels


def _ours(name: str, settings: dict[str, Any], problem: Problem, pixels: Tensor, _labels: Tensor) -> Tensor:
    return attacks.build(name, settings).perturb(problem, pixels, RADIUS, torch.arange(len(pixels))).inputs


def table(found: Sequence[Timed], images: int) -> Table:
    """Return one row for each attack."""
    head = ["attack", "vlp, ms", "torchattacks, ms", "ratio", f"left of {images}: vlp", "torchattacks"]
    return [head, *(_row(each) for each in found)]


def _row(each: Timed) -> list[str]:
    milliseconds = [spread([1e3 * second for second in seconds]) for seconds in (each.ours, each.theirs)]
    return [each.attack, *milliseconds, f"{ratio(each.theirs, each.ours):.2f}", *map(str, each.left)]


if __name__ == "__main__":
    main()
