"""Train the quickstart with several seeds, beside open_clip's own trainer, and write a dated report.

    python -m benchmarks.bench_quickstart

Each training is a process of its own, measured from its start to its end. Both sides are scored by `vlp eval`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import peer_open_clip as peer
from benchmarks.measure import Cost, run_measured
from benchmarks.quick import add_quick, settle
from benchmarks.quickstart_report import Row, write_report
from vlp.ground.provenance import commit, machine, versions
from vlp.recipe.compose import load_recipe

ROOT = peer.ROOT
TASKS = ("emoji24", "clipart-folders", "photos-cc0", "emoji-retrieval", "clipart-retrieval", "geometry")
# the command of `make quickstart`
TRAIN = (
    *("-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "vlp.train", "--config"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, score, and write the report after every training, so that nothing is lost when a later one fails."""
    parsed = settle(build_parser().parse_intermixed_args(arguments))
    os.chdir(ROOT)
    started = datetime.datetime.now(datetime.UTC)
    work = Path("runs") / f"bench_quickstart_{started:%Y%m%d_%H%M%S}"
    python: Path | None = None
    if parsed.peer:
        python = parsed.peer_python or peer.make_environment(Path(".venv-peer"))
    about = {
        "date": f"{started:%Y-%m-%d}",
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "peer_versions": peer.check_environment(python) if python else {},
        "recipe": parsed.recipe,
        "overrides": parsed.overrides,
        "command": again(parsed),
    }
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        path = write_report(parsed.to, about, rows)
        say(f"{row.trainer} seed {row.seed}: {row.wall_seconds:.0f} s, {row.summary()} -> {path}")

    for seed in parsed.seeds:
        add(train_vlp(parsed.recipe, parsed.overrides, work, seed))
    if python:
        for seed in parsed.peer_seeds:
            for augmentation in peer.AUGMENTATIONS:
                add(train_peer(python, parsed.recipe, parsed.overrides, work, seed, augmentation))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m benchmarks.bench_quickstart", description=__doc__
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the recipe")
    parser.add_argument("--recipe", default="recipes/quickstart.yaml", help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of vlp; default: 0 1 2")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True, help="train with open_clip too")
    parser.add_argument("--peer-seeds", nargs="+", type=int, default=[0], help="of open_clip; default: 0")
    parser.add_argument("--peer-python", type=Path, help="of an environment with open_clip_train; default: make one")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    add_quick(parser, recipe="recipes/smoke.yaml", overrides=["train.samples=512"], seeds=[0], peer_seeds=[0])
    return parser


def again(parsed: argparse.Namespace) -> str:
    """Return the command line that repeats the measurement on any machine."""
    words = ["python -m benchmarks.bench_quickstart", *parsed.overrides, "--recipe", parsed.recipe]
    words += ["--seeds", *map(str, parsed.seeds)]
    words += ["--peer-seeds", *map(str, parsed.peer_seeds)] if parsed.peer else ["--no-peer"]
    return " ".join(words)


def train_vlp(recipe: str, overrides: Sequence[str], work: Path, seed: int) -> Row:
    """Train with the command of `make quickstart`, score the run, and say what it cost."""
    name = f"vlp_seed_{seed}"
    settings = [*overrides, f"runs={work}", f"name={name}", f"seed={seed}"]
    command = [sys.executable, *TRAIN, recipe, *settings]
    cost = measure(command, work / "logs" / f"{name}.txt", "vlp", seed, {})
    last = json.loads((work / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    scores = score(work / name, work / "scores" / name)
    return row_of("vlp", seed, last["samples"], cost, scores, command)


def train_peer(python: Path, recipe: str, overrides: Sequence[str], work: Path, seed: int, augmentation: str) -> Row:
    """Train with open_clip's trainer, score its last checkpoint, and say what it cost."""
    name = f"open_clip_{augmentation}_seed_{seed}"
    resolved = load_recipe(recipe, [*overrides, f"seed={seed}"])
    config = peer.write_config(resolved, work / name)
    flags, samples = peer.trainer_flags(
        resolved, config["preprocess_cfg"], work / name, seed=seed, augmentation=augmentation
    )
    command = peer.train_command(python, work / name, flags)
    trainer = f"open_clip, {augmentation} augmentation"
    cost = measure(command, work / "logs" / f"{name}.txt", trainer, seed, peer.threads(resolved))
    scores = score(peer.export_checkpoint(work / name, config), work / "scores" / name)
    return row_of(trainer, seed, samples, cost, scores, command)


def measure(command: list[str], log: Path, trainer: str, seed: int, environment: Mapping[str, str]) -> Cost:
    """Run one training, telling how it goes."""
    say(f"{trainer} seed {seed}: training (log: {log})")
    return run_measured(command, log, folder=ROOT, environment={**os.environ, **environment}, tell=say)


def score(model: Path, folder: Path) -> dict[str, float]:
    """Run all shipped tasks with `vlp eval`; return `task/metric` values."""
    say(f"scoring {model}")
    command = [sys.executable, "-m", "vlp.cli", "eval", str(model), "--tasks", *TASKS, "--to", str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        subprocess.run(command, cwd=ROOT, check=True, stdout=output, stderr=subprocess.STDOUT)
    return read_scores(folder)


def read_scores(folder: Path) -> dict[str, float]:
    """Return `task/metric` values from the records of `vlp eval`.

    Raises:
        RuntimeError: A task left no record.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.json"))]
    scores = {
        f"{record['task']}/{name}": metric["value"]
        for record in records
        for name, metric in record.get("metrics", {}).items()
    }
    missing = [task for task in TASKS if not any(name.startswith(f"{task}/") for name in scores)]
    if missing:
        raise RuntimeError(f"no scores of {', '.join(missing)} in {folder}; see output.txt there")
    return scores


def row_of(trainer: str, seed: int, samples: int, cost: Cost, scores: dict[str, float], command: Sequence[str]) -> Row:
    """Join what a training cost and what it reached."""
    return Row(
        trainer=trainer,
        seed=seed,
        samples=samples,
        wall_seconds=cost.wall_seconds,
        cpu_seconds=cost.cpu_seconds,
        peak_bytes=cost.peak_bytes,
        scores=scores,
        command=" ".join(["python", *command[1:]]),
    )


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{datetime.datetime.now():%H:%M:%S}  {text}", flush=True)


if __name__ == "__main__":
    main()
