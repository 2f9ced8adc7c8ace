"""Time and memory of the objectives, forward and backward, beside open_clip's losses in the same run.

    python -m benchmarks.bench_objectives
    python -m benchmarks.bench_objectives --device cuda

Every case runs in a process of its own, one after the other, round after round. With `--pairs` or `--terms` only these
cases run; without, all that the targets ask for and the numerics, and after the last round, once each, every other
registered term and the largest batches. The report is written again and again, so that a run may be cut short.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.objective_cases import NOT_INSTALLED, OURS, OUT_OF_MEMORY, PEERS, PRODUCTS, Case, Cost, measure
from benchmarks.objective_numerics import gradient_errors
from benchmarks.objective_report import BOUNDED, Row, peak_of, tenths, write_report
from benchmarks.quick import add_quick, settle
from vlp.ground.provenance import commit, machine, versions
from vlp.ground.registry import nearest
from vlp.objectives.base import terms
from vlp.pairs.engine.tiles import TILE_SIZE

ROOT = Path(__file__).resolve().parent.parent
PAIRS = (1024, 4096, 16384)
TARGETED = (
    *("open_clip.ClipLoss", "open_clip.SigLipLoss", "dense_uniformity_image"),
    *("clip", "siglip", "uniformity_image", "cwcl", "combination"),
)
ALL_TERMS_PAIRS = 4096
LARGE = (32768, 65536)  # for ours alone: dense losses need 17 GB and more
SPREAD = (4096, 8192)  # over two processes
CUDA_PAIRS = tuple(4096 * 2**k for k in range(7))
HOPELESS = (OUT_OF_MEMORY, NOT_INSTALLED)
CUDA_NAMES = ("open_clip.ClipLoss", "inf_cl", "open_clip.SigLipLoss", "clip", "siglip")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure round after round, and write the report after each, so that nothing is lost when a later one fails."""
    parser = build_parser()
    parsed = settle(parser.parse_args(arguments))
    if parsed.case:
        order = json.loads(parsed.case)
        print(json.dumps(asdict(measure(Case(**order.pop("case")), **order))))
        return
    on_device = parsed.device == "cuda"
    if on_device and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device on this machine")
    known = [*terms, *OURS, *PEERS]
    for name in parsed.terms or ():
        if name not in known:
            parser.error(f"unknown case '{name}'{nearest(name, known)} (known: {', '.join(known)})")
    torch.set_num_threads(1)
    rows: list[Row] = []
    about = about_of(parsed)
    errors = [] if on_device or parsed.pairs or parsed.terms else list(gradient_errors())
    for number in range(parsed.rounds):
        for case in cases(parsed):
            add(rows, case)
        about["rounds"] = number + 1
        say(f"round {number + 1} of {parsed.rounds} -> {write_report(parsed.to, about, rows, errors)}")
    for case in more_cases(parsed):
        add(rows, case)
        write_report(parsed.to, about, rows, errors)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.bench_objectives",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", nargs="+", type=int, help="sizes of the batch")
    parser.add_argument("--terms", nargs="+", metavar="NAME", help="registered terms, peers or other cases")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    parser.add_argument("--peak-tflops", type=float, help="of the accelerator in bfloat16; default: known for a few")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    add_quick(parser, pairs=[256], rounds=1)
    return parser


def about_of(parsed: argparse.Namespace) -> dict[str, object]:
    """Return what stands beside the numbers."""
    name = f"{torch.cuda.get_device_name()}, {machine()}" if parsed.device == "cuda" else machine()
    libraries = dict(versions())
    with suppress(metadata.PackageNotFoundError):
        libraries["inf_cl"] = metadata.version("inf_cl")
    return {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "commit": commit(),
        "machine": name,
        "versions": libraries,
        "device": parsed.device,
        "peak_tflops": parsed.peak_tflops or peak_of(name),
        "rounds_wanted": parsed.rounds,
        "command": again(parsed),
    }


def again(parsed: argparse.Namespace) -> str:
    """Return the command line that repeats the measurement on any machine."""
    words = ["python -m benchmarks.bench_objectives"]
    words += ["--pairs", *map(str, parsed.pairs)] if parsed.pairs else []
    words += ["--terms", *parsed.terms] if parsed.terms else []
    words += ["--rounds", str(parsed.rounds)]
    words += ["--device", parsed.device] if parsed.device != "cpu" else []
    words += ["--peak-tflops", f"{parsed.peak_tflops:g}"] if parsed.peak_tflops else []
    return " ".join(words)


def cases(parsed: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases of one round."""
    if parsed.device == "cuda":
        for pairs in parsed.pairs or CUDA_PAIRS:
            for name in parsed.terms or CUDA_NAMES:
                for dtype in ("float32", "bfloat16"):
                    yield Case(name, pairs, device="cuda", dtype=dtype)
        return
    names = parsed.terms or TARGETED
    if any(name in BOUNDED for name in names):
        yield from (Case(name, TILE_SIZE) for name in PRODUCTS)
    for pairs in parsed.pairs or PAIRS:
        yield from (Case(name, pairs) for name in names)
    if parsed.pairs or parsed.terms:
        return
    for pairs in SPREAD:
        for name in ("clip", "siglip"):
            if pairs not in PAIRS:
                yield Case(name, pairs)
            yield Case(name, pairs, processes=2)


def more_cases(parsed: argparse.Namespace) -> Iterator[Case]:
    """Yield what runs once, after the rounds."""
    if parsed.device == "cuda" or parsed.pairs or parsed.terms:
        return
    yield from (Case(name, pairs) for pairs in LARGE for name in ("clip", "siglip"))
    yield from (Case(name, ALL_TERMS_PAIRS) for name in terms if name not in TARGETED)


def add(rows: list[Row], case: Case) -> None:
    """Measure a case once more, unless there is no hope that it runs."""
    row = next((row for row in rows if (row.name, row.pairs, row.processes, row.dtype) == key_of(case)), None)
    if row is None:
        row = Row(*key_of(case))
        rows.append(row)
    same = [other for other in rows if (other.name, other.dtype) == (case.name, case.dtype)]
    smaller = [other for other in same if other.pairs <= case.pairs and other.problem.startswith(HOPELESS)]
    if smaller:
        row.problem = row.problem or smaller[0].problem
        return
    costs = run(case)
    row.problem = next((cost.problem for cost in costs if cost.problem), "")
    if row.problem:
        say(f"{case.name}, {case.pairs} pairs: {row.problem}")
        return
    slowest = [max(walls) for walls in zip(*(cost.wall for cost in costs), strict=True)]
    row.cpu.append(statistics.median(sum(spent) for spent in zip(*(cost.cpu for cost in costs), strict=True)))
    row.wall.append(statistics.median(slowest))
    row.peak_mb.append(max(cost.peak_mb for cost in costs))
    low, middle, high = (1e3 * value for value in tenths(row.cpu))
    spread = f"{middle:9.1f} ms  {low:.1f}..{high:.1f}"
    say(f"{case.name:24s} {case.pairs:7d} x{case.processes} {spread}  {row.peak_mb[-1]:7.0f} MB")


def key_of(case: Case) -> tuple[str, int, int, str]:
    """Return what tells one row from another."""
    return case.name, case.pairs, case.processes, case.dtype


def run(case: Case) -> list[Cost]:
    """Measure in fresh processes; return the cost of each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        running = []
        try:
            for rank in range(case.processes):
                order = json.dumps({"case": asdict(case), "rank": rank, "meeting": str(Path(folder) / "meeting")})
                command = [sys.executable, "-m", "benchmarks.bench_objectives", "--case", order]
                running.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                    )
                )
            return [cost_of(process) for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait()


def cost_of(process: subprocess.Popen[str]) -> Cost:
    """Wait for a process, and read what it printed last."""
    output, errors = process.communicate()
    if process.returncode:
        last = errors.strip().splitlines()[-1:] or [""]
        return Cost([], [], 0.0, f"exit code {process.returncode} {last[0]}".strip())
    return Cost(**json.loads(output.splitlines()[-1]))


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{datetime.datetime.now():%H:%M:%S}  {text}", flush=True)


if __name__ == "__main__":
    main()
