"""Let ckpt-chaos, which knows nothing of this project, kill trainings at file events and judge how they resume.

    python -m benchmarks.peer_ckpt_chaos --to benchmarks/reports
    python -m benchmarks.peer_ckpt_chaos --ranks 1 --modes torn --points 10

The package goes into a folder of its own. Every kill costs two starts of Python, so `--points` chooses events evenly;
`benchmarks.chaos` takes all. The same command goes on with the modes that are not done.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.dated_report import command_line, write_page
from benchmarks.forked_runs import set_up
from benchmarks.quick import add_quick, settle
from vlp.ground.provenance import commit

PACKAGE = "ckpt-chaos==0.1.8"
MODES = ("before", "torn", "term", "unsynced")
STEPS, EVERY = 8, 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it with every mode and number of ranks, write a report; leave with 1 where it finds a fault."""
    parsed = settle(build_parser().parse_args(arguments))
    work = parsed.work.absolute()
    package = install(work / "package")
    done = [
        one
        for ranks in parsed.ranks
        for mode in parsed.modes
        for one in run_mode(work, package, ranks, mode, parsed.points)
    ]
    named = [f"{folder.name.removesuffix('_run')}={folder}" for folder, _ in done]
    board = call(package, ["scoreboard", *named]).stdout
    print(board)
    if parsed.to is not None:
        words = command_line("peer_ckpt_chaos", arguments)
        sections = [
            f"{PACKAGE} killed trainings of {STEPS} steps with a checkpoint every {EVERY} steps at file events, in "
            "each of its modes, resumed them, and compared every state and every line of metrics.",
            board.strip(),
        ]
        found = {folder.name: text for folder, text in done}
        print(write_page(parsed.to, "ckpt-chaos", "ckpt-chaos", words, sections, found), file=sys.stderr)
    broken = [folder.name for folder, text in done if "exit 0" not in text.splitlines()[-1]]
    print(f"{len(done)} runs, {len(broken)} with faults: {', '.join(broken)}")
    sys.exit(1 if broken or not done else 0)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--points", type=int, default=20, metavar="N", help="most events per mode and number of ranks")
    parser.add_argument("--work", type=Path, default=Path("runs/ckpt_chaos"), help="folder of the package and the runs")
    parser.add_argument("--to", type=Path, help="folder of the report, such as benchmarks/reports; default: none")
    add_quick(parser, ranks=[1], points=2)
    return parser


def install(folder: Path) -> Path:
    """Fetch the package into a folder, where it is not there yet; return the folder."""
    if not (folder / "ckpt_chaos").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), PACKAGE]
        subprocess.run(command, check=True)
    return folder


def run_mode(work: Path, package: Path, ranks: int, mode: str, points: int) -> list[tuple[Path, str]]:
    """Return the folder of one mode's runs and what ckpt-chaos printed, for each process that it kills."""
    found = []
    for victim in range(ranks):
        name = f"{ranks}_ranks_{mode}_kills_{victim}"
        folder, said = work / commit() / f"{name}_run", work / commit() / f"{name}.txt"
        if not said.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            scene = set_up(work / commit() / f"{name}_scene", ranks=ranks, steps=STEPS, every=EVERY, keep=STEPS)
            options = {
                "--work": str(folder),
                "--modes": mode,
                "--ranks": str(ranks),
                "--crash-rank": str(victim),
                "--max-points": str(points),
                "--step-regex": r"resumed from step (\d+)",
                "--result-file": "{out}/result.json",
                "--checkpoint-glob": "{out}/tiny/checkpoints/step_*",
                "--fail-on": "HARD_FAIL,SILENT_DIVERGENCE,LOST_WORK,CONTROL_FAIL",
            }
            words = ["run", *(word for pair in options.items() for word in pair), "--"]
            train = [sys.executable, "-m", "benchmarks.peer_ckpt_chaos_train", str(scene.recipe), "{out}"]
            ended = call(package, [*words, *train])
            said.write_text(f"{ended.stdout}{ended.stderr}\nexit {ended.returncode}", encoding="utf-8")
        print(said.read_text(encoding="utf-8"))
        found.append((folder, said.read_text(encoding="utf-8")))
    return found


def call(package: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run ckpt-chaos."""
    paths = os.pathsep.join([str(package), str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ckpt_chaos", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


if __name__ == "__main__":
    main()
