"""What a ready batch costs, beside open_clip's own loader on the same shards in the same rounds.

    python -m benchmarks.bench_loader
    python -m benchmarks.bench_loader --quick

Sets A (longest side 512), B (shortest side 256) and C (longest side 1024) are made once, of photographs that
scikit-learn and scikit-image ship (the extra `bench`), and kept under --scratch. Every case is a process of
its own, one after the other, round after round; the report is written again after every round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import peer_open_clip as peer
from benchmarks.jpeg_sets import SETS
from benchmarks.loader_cases import BATCH_SIZE, SCALE, SIZE, Case, card_of, fidelity, measure
from benchmarks.loader_report import PEER, WORKERS, Row, write_report
from benchmarks.quick import add_quick, settle
from vlp.data import SampleSet
from vlp.ground.provenance import commit, machine, versions

ROOT = peer.ROOT

# so that each of two workers of the peer goes through whole batches
STEP = BATCH_SIZE * max(WORKERS)
QUICK_ROUNDS, QUICK_SAMPLES = 1, STEP


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure round after round, and write the report after each."""
    parser = build_parser()
    parsed = settle(parser.parse_args(arguments))
    if parsed.case:
        print(json.dumps(measure(Case(**json.loads(parsed.case)))))
        return
    if any(number < STEP or number % STEP for number in parsed.samples):
        parser.error(f"--samples: whole batches for {max(WORKERS)} workers need multiples of {STEP}")
    os.chdir(ROOT)
    python = parsed.peer_python or peer.make_environment(Path(".venv-peer"))
    about = about_of(parsed, python)
    values: dict[str, dict[str, list[float]]] = {}
    for case in sets(parsed):
        samples = SampleSet({case.kind: card_of(case)})
        kilobytes = sum(samples[number].size("jpg") for number in range(len(samples))) / len(samples) / 1e3
        about["sets"][case.kind] = [len(samples), round(kilobytes)]
        values[case.kind] = fidelity(case)
    rows = [Row(case.name, case.kind, case.workers) for case in cases(parsed)]
    for number in range(parsed.rounds):
        for row, case in zip(rows, cases(parsed), strict=True):
            for name, seconds in run(case, python).items():
                row.seconds.setdefault(name, []).append(seconds)
            shown = ", ".join(f"{name} {1e6 * found[-1]:.0f} us" for name, found in row.seconds.items())
            say(f"{row.name:9s} {row.kind} workers {row.workers}: {shown}")
        about["rounds"] = number + 1
        say(f"round {number + 1} of {parsed.rounds} -> {write_report(parsed.to, about, rows, values)}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.bench_loader",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    samples = [kind.samples for kind in SETS]
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--samples", nargs=len(SETS), type=int, default=samples, help="of A, B, C; default: %(default)s"
    )
    parser.add_argument("--passes", type=int, default=1, help="that are measured; default: %(default)s")
    parser.add_argument("--scratch", type=Path, default=Path("runs/bench_loader"), help="default: %(default)s")
    parser.add_argument("--peer-python", type=Path, help="of an environment with open_clip_train; default: make one")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.set_defaults(sets=[kind.name for kind in SETS])
    add_quick(parser, sets=[SETS[0].name], rounds=QUICK_ROUNDS, samples=[QUICK_SAMPLES])
    return parser


def about_of(parsed: argparse.Namespace, python: Path) -> dict[str, object]:
    """Return what stands beside the numbers."""
    return {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "peer_versions": peer.check_environment(python),
        "rounds_wanted": parsed.rounds,
        "sets": {},
        "command": again(parsed),
    }


def again(parsed: argparse.Namespace) -> str:
    """Return the command line that repeats the measurement on any machine."""
    if parsed.quick:
        return "python -m benchmarks.bench_loader --quick"
    numbers = " ".join(map(str, parsed.samples))
    return f"python -m benchmarks.bench_loader --rounds {parsed.rounds} --samples {numbers} --passes {parsed.passes}"


def sets(parsed: argparse.Namespace) -> Iterator[Case]:
    """Yield one case per set, for what does not depend on a loader."""
    for kind, samples in zip(parsed.sets, parsed.samples, strict=True):
        yield Case("", kind, samples, parsed.passes, 0, str(parsed.scratch))


def cases(parsed: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases of one round; both loaders stand side by side."""
    for kind, samples in zip(parsed.sets, parsed.samples, strict=True):
        for workers in WORKERS:
            for name in (PEER, "vlp", "vlp exact") if workers == 0 else (PEER, "vlp"):
                yield Case(name, kind, samples, parsed.passes, workers, str(parsed.scratch))
        yield Case("stages", kind, samples, parsed.passes, 0, str(parsed.scratch))
        yield Case("codec", kind, samples, parsed.passes, 0, str(parsed.scratch))


def run(case: Case, python: Path) -> dict[str, float]:
    """Measure in a fresh process.

    Raises:
        RuntimeError: It failed; shows the end of its output.
    """
    if case.name == PEER:
        order = {
            "shards": [str(path) for path in card_of(case).paths()],
            "samples": case.samples,
            "passes": case.passes,
            "workers": case.workers,
            "batch_size": BATCH_SIZE,
            "size": SIZE,
            "scale": SCALE,
        }
        command = [str(python), "-m", "benchmarks.peer_open_clip_loader", json.dumps(order)]
    else:
        command = [sys.executable, "-m", "benchmarks.bench_loader", "--case", json.dumps(asdict(case))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{datetime.datetime.now():%H:%M:%S}  {text}", flush=True)


if __name__ == "__main__":
    main()
