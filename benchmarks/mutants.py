"""Put small faults into copies of the source, one at a time: which of them does no test notice?

    python -m benchmarks.mutants                                  # 40 of each room
    python -m benchmarks.mutants --rooms pairs --limit 200
    python -m benchmarks.mutants --files vlp/step/optimizer.py --limit 1000 --minutes 5

Only the tests that belong to a file run (benchmarks/mutant_tests.py), in a process that is forked from one that has
torch imported, in a copy of the project: the working tree is never touched. What was found before is kept under `--to`
and not run again, unless the file has changed, or the fault was not noticed and its tests have.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from benchmarks.mutant_operators import Mutant, mutants_of
from benchmarks.mutant_report import SURVIVED, UNCLEAR, Result, write_report
from benchmarks.mutant_runs import Job, Run, copy_project, runs_of
from benchmarks.mutant_tests import ROOMS, calls_of, files_of
from benchmarks.quick import add_quick, settle

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 300.0  # seconds that one call of pytest may take
WARM = ("tests.conftest", "vlp.train", "hypothesis")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run mutants and write a report; leave with 1 where a survivor has no explanation."""
    parsed = settle(build_parser().parse_args(arguments))
    rooms = {room: files_of(room, ROOT) for room in parsed.rooms}
    if parsed.files:
        rooms = {room: [file for file in files if file in parsed.files] for room, files in rooms.items()}
    chosen = {room: draw(files, parsed.limit, parsed.seed, ROOT) for room, files in rooms.items()}
    kept = Kept(parsed.to / "results.jsonl", ROOT)
    todo = [mutant for mutants in chosen.values() for mutant in mutants if not kept.settles(mutant)]
    say(f"{sum(map(len, chosen.values())):,} mutants, {len(todo):,} of them to be run")
    run_all(todo, kept, num_jobs=parsed.jobs, seconds=60 * parsed.minutes)
    found = {room: [result for each in mutants if (result := kept.find(each))] for room, mutants in chosen.items()}
    files = f" --files {' '.join(parsed.files)}" if parsed.files else ""
    again = f"python -m benchmarks.mutants --rooms {' '.join(rooms)}{files} --limit {parsed.limit} --seed {parsed.seed}"
    possible = {room: sum(len(mutants_in(file, ROOT)) for file in files) for room, files in rooms.items()}
    drawn = {room: len(mutants) for room, mutants in chosen.items()}
    page, unexplained = write_report(parsed.report, again, possible, drawn, found)
    say(f"{page}: {unexplained} survivors without an explanation")
    sys.exit(1 if unexplained else 0)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--files", nargs="+", default=[], help="of these rooms, from the root of the project")
    parser.add_argument("--limit", type=int, default=40, help="mutants of each room, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw; a larger limit adds to what was drawn")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further mutant starts")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--to", type=Path, default=Path("runs/mutants"), help="folder of the results")
    parser.add_argument("--report", type=Path, default=Path("benchmarks/reports"), help="folder of the report")
    add_quick(parser, limit=1)
    return parser


def say(text: str) -> None:
    """Tell about the progress."""
    print(text, file=sys.stderr, flush=True)


def mutants_in(path: str, root: Path) -> list[Mutant]:
    """Return every mutant of a file of the project."""
    return mutants_of(path, (root / path).read_text(encoding="utf-8"))


def draw(files: Sequence[str], limit: int, seed: int, root: Path) -> list[Mutant]:
    """Return a random part of the mutants of some files, file by file; a mutant keeps its place in the draw."""
    every = [mutant for path in files for mutant in mutants_in(path, root)]
    every.sort(key=lambda mutant: digest(f"{seed} {mutant.path} {mutant.name}"))
    return sorted(every[:limit], key=lambda mutant: (mutant.path, mutant.start))


def digest(*texts: str) -> str:
    """Return a short checksum."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


class Kept:
    """Results on the disk, a line each; the last one of a name counts, if it still tells about these files.

    Attributes:
        passed: Calls of pytest that end well where nothing is wrong.
    """

    def __init__(self, path: Path, root: Path):
        self.path, self.root = path, root
        self.results: dict[tuple[str, str], Result] = {}
        self.passed: set[str] = set()
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                result = Result(**json.loads(line))
                self.results[result.path, result.name] = result

    def find(self, mutant: Mutant) -> Result | None:
        """Return what came of a mutant, where it is known."""
        result = self.results.get((mutant.path, mutant.name))
        if result is None or result.source != self.source_of(mutant.path):
            return None
        return result if result.outcome != SURVIVED or result.tests == self.tests_of(mutant.path) else None

    def settles(self, mutant: Mutant) -> bool:
        """Whether a mutant need not run again."""
        result = self.find(mutant)
        return result is not None and result.outcome != UNCLEAR

    def add(self, path: str, mutant: Mutant, outcome: str, noticed_by: str) -> Result:
        """Keep what came of a mutant."""
        result = Result(
            path=path,
            name=mutant.name,
            operator=mutant.operator,
            outcome=outcome,
            noticed_by=noticed_by,
            source=self.source_of(path),
            tests=self.tests_of(path),
        )
        self.results[path, mutant.name] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        return result

    def source_of(self, path: str) -> str:
        """Return the checksum of a file."""
        return digest((self.root / path).read_text(encoding="utf-8"))

    def tests_of(self, path: str) -> str:
        """Return the checksum of the tests of a file."""
        calls = calls_of(path, self.root)
        named = {self.root / word for call in calls for word in shlex.split(call) if word.startswith("tests")}
        files = sorted(file for path in named for file in (path.rglob("test_*.py") if path.is_dir() else [path]))
        return digest(*calls, *(file.read_text(encoding="utf-8") for file in files if file.is_file()))


def run_all(
    mutants: Sequence[Mutant],
    kept: Kept,
    *,
    num_jobs: int,
    seconds: float = math.inf,
    patience: float = PATIENCE,
    warm: Sequence[str] = WARM,
) -> None:
    """Run mutants, several at a time; a test that notices one runs without it too.

    Args:
        mutants: File by file.
        seconds: After which no further mutant starts.
        patience: Seconds after which a mutant counts as hung.
        warm: Modules to import once for all.

    Raises:
        RuntimeError: A file has no tests.
    """
    for name in warm:
        importlib.import_module(name)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        copies = [copy_project(kept.root, Path(folder) / str(number)) for number in range(num_jobs)]
        for path, group in groupby(mutants, key=lambda mutant: mutant.path):
            source = (kept.root / path).read_text(encoding="utf-8")
            left = {mutant.name: mutant for mutant in group}
            for call in calls_of(path, kept.root):
                jobs = [Job(mutant, path, mutant.apply(source), call, patience) for mutant in left.values()]
                noticed = [run for run in runs_of(jobs, copies, end) if run.outcome != SURVIVED]
                for run in noticed:
                    outcome = run.outcome if _passes_without(run, source, kept, copies[0]) else UNCLEAR
                    tell(kept.add(path, run.mutant, outcome, run.noticed_by))
                    del left[run.mutant.name]
                if time.monotonic() > end:
                    return  # whoever is left has not met all tests
            for mutant in left.values():
                tell(kept.add(path, mutant, SURVIVED, ""))


def tell(result: Result) -> None:
    """Tell what came of a mutant."""
    say(f"{result.outcome:8}  {result.path}  {result.name}")


def _passes_without(noticed: Run, source: str, kept: Kept, copy: Path) -> bool:
    """Whether what noticed a fault passes without it: one test, or all where none can be named."""
    job = noticed.job
    for call in filter(None, (noticed.noticed_by and shlex.quote(noticed.noticed_by), job.call)):
        if call not in kept.passed:
            (run,) = runs_of([Job(None, job.path, source, call, job.seconds)], [copy], math.inf)
            kept.passed |= {call} if run.outcome == SURVIVED else set()
        if call in kept.passed:
            return True
    return False


if __name__ == "__main__":
    main()
