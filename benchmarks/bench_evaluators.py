"""What scoring costs in time and memory, beside CLIP_benchmark on the same embeddings and prompts in the same rounds.

    python -m benchmarks.bench_evaluators
    python -m benchmarks.bench_evaluators --quick --to runs/try

Every case is a process of its own, one after the other, round after round; the report is written again after every
round. The embeddings of searches are drawn, and towers have random weights: neither changes what anything costs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.dated_report import command_line, write_page
from benchmarks.evaluator_cases import CASES, PEER_PACKAGE, make_set
from benchmarks.quick import add_quick, settle
from benchmarks.tables import Table, markdown, percent, ratio, spread

CORES = 2
PROBED = (10, 100)
QUICK = {"images": 500, "captions": 2500, "stream": 20_000, "classes": 1, "pictures": 32, "probed": 2000}
FULL = {"images": 5000, "captions": 25_010, "stream": 1_000_000, "classes": 4, "pictures": 512, "probed": 50_000}
PACKAGE = "clip_benchmark"


@dataclass
class Found:
    """Numbers of all rounds by case."""

    values: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, case: str, numbers: Mapping[str, float]) -> None:
        """Keep what one process measured."""
        self.values.setdefault(case, []).append(dict(numbers))

    def all(self, case: str, name: str = "seconds") -> list[float]:
        """Return every measurement of one number."""
        return [numbers[name] for numbers in self.values[case]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure round after round, and write the report after each."""
    parsed = settle(build_parser().parse_args(arguments))
    if parsed.case:
        name, settings = json.loads(parsed.case)
        numbers = CASES[name](**settings)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(numbers))
        return
    sizes, rounds = parsed.sizes, parsed.rounds
    package = install(parsed.scratch / "package")
    pictures = make_set(parsed.scratch / f"pictures_{sizes['pictures']}", sizes["pictures"])
    words = command_line("bench_evaluators", arguments)
    pairs = {"images": sizes["images"], "texts": sizes["captions"]}
    found = Found()
    for number in range(rounds):
        found.add("retrieval", run("retrieval", pairs, package))
        found.add("peer_retrieval", run("peer_retrieval", pairs, package))
        found.add("classifier", run("classifier", {"classes": sizes["classes"], "rounds": 1}, package))
        for count in (1, 2):
            settings = {"folder": str(pictures.resolve()), "texts": 4 * sizes["pictures"]}
            found.add(f"{count} processes", run("processes", settings, package, num_processes=count))
        for classes in PROBED:
            settings = {"samples": sizes["probed"], "classes": classes}
            found.add(f"probe {classes}", run("probe", settings, package))
        if number == 0:
            stream = {"images": sizes["images"], "texts": sizes["stream"]}
            found.add("stream", run("retrieval", stream, package))
        page = write_page(
            parsed.to, "evaluators", "Evaluators", words, sections(found, sizes, number + 1), found.values
        )
        print(f"round {number + 1} of {rounds} -> {page}", file=sys.stderr)
    print(markdown(table(found, sizes)))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.bench_evaluators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--scratch", type=Path, default=Path("runs/bench_evaluators"), help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.set_defaults(sizes=FULL)
    add_quick(parser, sizes=QUICK, rounds=1)
    return parser


def install(folder: Path) -> Path:
    """Fetch CLIP_benchmark into a folder, where it is not there yet; return the folder."""
    if not (folder / PACKAGE).exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*command, PEER_PACKAGE], check=True)
    return folder.resolve()


def run(case: str, settings: Mapping[str, object], package: Path, *, num_processes: int = 0) -> dict[str, float]:
    """Measure in a fresh process, or in several with a core each.

    Raises:
        RuntimeError: It failed; shows the end of its output.
    """
    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(num_processes)] if num_processes else []
    command = [sys.executable, *start, "-m", "benchmarks.bench_evaluators", "--case", json.dumps([case, settings])]
    threads = 1 if num_processes else CORES
    known = {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(package)]), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | known)
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n{done.stderr[-3000:]}")
    numbers: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{case}: {numbers}", file=sys.stderr)
    return numbers


def sections(found: Found, sizes: Mapping[str, int], rounds: int) -> list[str]:
    """Return the report between its head and the versions."""
    return [
        f"{rounds} rounds, cases in turns on {CORES} cores; median (p10 .. p90). Beside "
        f"{PEER_PACKAGE.replace('==', ' ')}.",
        markdown(table(found, sizes)),
        "Memory is what the resident memory of the process rises by above the embeddings. The classifier has 80 "
        "prompts for each class; it cannot become faster by more than the tokens that are saved, which is the floor. "
        "The two processes have one thread each. A probe searches its penalty on a fifth of the rows and is fitted on "
        "all.",
    ]


def table(found: Found, sizes: Mapping[str, int]) -> Table:
    """Return one line per question, with what was wanted."""
    images, captions = f"{sizes['images']:,}", f"{sizes['captions']:,}"
    saved = found.all("classifier", "tokens_saved")[0]
    ours, theirs = found.all("classifier", "ours_0"), found.all("classifier", "peer_0")
    speedup = ratio(theirs, ours)
    both = ratio(found.all("1 processes"), found.all("2 processes"))
    pairs = f"retrieval, {images} images, {captions} captions"
    return [
        ["question", "vlp", "CLIP_benchmark", "ratio", "wanted"],
        [f"{pairs}: seconds", *row(found.all("retrieval"), found.all("peer_retrieval")), "at most 5 s"],
        [
            f"{pairs}: MB",
            *row(*([value / 1e6 for value in found.all(case, "bytes")] for case in ("retrieval", "peer_retrieval"))),
            "at most 200 MB",
        ],
        [
            f"retrieval, {images} images, {sizes['stream']:,} captions: seconds; MB",
            f"{median(found.all('stream')):.1f}; {median(found.all('stream', 'bytes')) / 1e6:.0f}",
            "",
            "",
            "it streams",
        ],
        [
            f"classifier, {sizes['classes']} x 80 prompts, 77 tokens: seconds",
            *row(ours, theirs),
            f"at least 3 x; tokens saved: {saved:.2f} x, {percent(speedup / saved)} of them (80 %)",
        ],
        *(
            [
                f"linear probe, {sizes['probed']:,} x 512, {classes} classes: seconds; peer: one fit of scikit-learn",
                *row(found.all(f"probe {classes}"), found.all(f"probe {classes}", "peer_seconds")),
                f"under 60 s; {percent(min(found.all(f'probe {classes}', 'same')))} of predictions equal",
            ]
            for classes in PROBED
        ),
        [
            f"{sizes['pictures']} images and {4 * sizes['pictures']:,} texts: seconds of 2 processes; of 1",
            spread(found.all("2 processes")),
            spread(found.all("1 processes")),
            f"{both:.2f} x",
            "at least 1.9 x",
        ],
    ]


def row(ours: Sequence[float], theirs: Sequence[float]) -> list[str]:
    """Return both, and how many times more theirs is."""
    return [spread(ours), spread(theirs), f"{ratio(theirs, ours):.1f} x"]


if __name__ == "__main__":
    main()
