"""Kill trainings at random instants, a thousand times, resume each, and compare with runs that nothing disturbed.

    python -m benchmarks.kills                                    # 1,000 kills, one process and two, about an hour
    python -m benchmarks.kills --kills 50 --ranks 1 --to runs/try

A life is a run that is killed, resumed, perhaps killed again, and at last finished. Signals: SIGKILL, SIGTERM, SIGINT,
SIGUSR1, SIGTERM followed by SIGKILL within the grace; to one process, to all, to all with those that decode for them,
or to one that decodes. Instants: any, or a few milliseconds behind a file event, most of which lie inside a save. After
each kill every whole checkpoint and every line of metrics must be that of the undisturbed run, bit for bit, none may be
lost, and after the last resume all must be there.

Lives with decoding processes write checkpoints in the background. Half of those with several processes split the
parameters over them, and each writes its own part of a checkpoint; --sharded takes these alone. What was done is kept
under --work; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from benchmarks.dated_report import command_line
from benchmarks.forked_runs import (
    Ended,
    Reference,
    Scene,
    Training,
    differences,
    make_reference,
    newest_step,
    read_lines,
    run_once,
    set_up,
    warm_up,
)
from benchmarks.instruments import Instruments
from benchmarks.kills_report import write_report
from benchmarks.quick import add_quick, settle
from vlp.ground.provenance import commit

STEPS, EVERY, KEEP = 16, 4, 2
WORKERS = (0, 1, 2)
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1", "SIGTERM+SIGKILL")
TARGETS = ("one", "all", "group", "decoder")
MOST_EVENTS = 80  # a run of this length has somewhat more
LONGEST_DELAY = 0.02  # between a file event and the signal
LONGEST_GRACE = 0.3  # between SIGTERM and SIGKILL
SHARDED = 0.5  # how many of the lives with several processes split their parameters
ANOTHER = 0.4  # how often a resumed run is killed, too


@dataclass(frozen=True)
class Kill:
    """One kill.

    Args:
        signal: One of SIGNALS.
        target: One of TARGETS.
        rank: The process that `one` means.
        event: File event after which it comes; 0 where it comes after `delay` seconds, whatever happens then.
        delay: Seconds.
        grace: Seconds between SIGTERM and SIGKILL.
        hit: What the process was doing to a file, where that is known.
        steps: Steps that this start had done.
        codes: How the processes ended; empty where the run was over before.
    """

    signal: str
    target: str
    rank: int
    event: int
    delay: float
    grace: float
    hit: str = ""
    steps: int = 0
    codes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Life:
    """A run from its start to its end."""

    commit: str
    seed: int
    number: int
    ranks: int
    workers: int
    kills: tuple[Kill, ...]
    problems: tuple[str, ...]
    said: str
    sharded: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill and resume, write a report; leave with 1 where a promise is broken."""
    parsed = settle(build_parser().parse_args(arguments))
    parsed.work.mkdir(parents=True, exist_ok=True)
    lives: list[Life] = []
    with tqdm(total=parsed.kills, unit="kill", disable=None) as bar:
        for life in live(parsed):
            lives.append(life)
            bar.update(len(life.kills))
            bar.set_postfix_str(f"{sum(bool(life.problems) for life in lives)} broken")
    if parsed.to is not None:
        words = command_line("kills", arguments)
        print(write_report(parsed.to, words, lives), file=sys.stderr)
    broken = [life for life in lives if life.problems]
    for life in broken:
        layout = f"{life.ranks} ranks{', sharded' * life.sharded}, {life.workers} workers"
        print(f"life {life.number}, {layout}: {'; '.join(life.problems)}")
    print(f"{sum(len(life.kills) for life in lives)} kills in {len(lives)} lives, {len(broken)} broken")
    sys.exit(1 if broken or not lives else 0)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sharded", action="store_true", help="lives of sharded parameters alone; give --ranks 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/kills"), help="folder of the runs and of what was done")
    parser.add_argument("--to", type=Path, help="folder of the report, such as benchmarks/reports; default: none")
    add_quick(parser, kills=6, ranks=[1])
    return parser


# ---------------------------------------- lives
def live(parsed: argparse.Namespace) -> Iterator[Life]:
    """Yield lives until there were enough kills, those of earlier starts first."""
    record = parsed.work / "lives.jsonl"
    done, number, stage = 0, 0, Stage(parsed.work.absolute())
    known = {life.number: life for life in read_lives(record) if life.seed == parsed.seed}
    while done < parsed.kills:
        life = known.get(number)
        if life is None:
            ranks = parsed.ranks[number % len(parsed.ranks)]
            life = live_once(stage, parsed.seed, number, ranks, sharded=parsed.sharded)
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(life)) + "\n")
        done, number = done + len(life.kills), number + 1
        yield life


@dataclass
class Stage:
    """Scenes and references, made when they are first needed."""

    folder: Path

    def __post_init__(self) -> None:
        self.scenes: dict[tuple[int, int, bool], tuple[Scene, float]] = {}
        self.references: dict[tuple[int, bool], Reference] = {}

    def scene(self, ranks: int, workers: int, *, sharded: bool) -> tuple[Scene, float]:
        """Return a scene, and how many seconds its run takes undisturbed."""
        key = (ranks, workers, sharded)
        if key not in self.scenes:
            folder = self.folder / f"scene_{ranks}_{workers}{'_sharded' * sharded}"
            shutil.rmtree(folder, ignore_errors=True)
            scene = set_up(
                folder,
                ranks=ranks,
                steps=STEPS,
                every=EVERY,
                keep=KEEP,
                workers=workers,
                background=workers > 0,
                sharded=sharded,
                in_parts=sharded,
            )
            warm_up(scene)
            started = time.monotonic()
            run_once(scene, folder / "whole.log")
            self.scenes[key] = scene, time.monotonic() - started
        return self.scenes[key]

    def reference(self, ranks: int, *, sharded: bool) -> Reference:
        """Return what an undisturbed run computes."""
        key = (ranks, sharded)
        if key not in self.references:
            folder = self.folder / f"reference_{ranks}{'_sharded' * sharded}"
            shutil.rmtree(folder, ignore_errors=True)
            self.references[key] = make_reference(folder, ranks=ranks, steps=STEPS, sharded=sharded)
        return self.references[key]


def live_once(stage: Stage, seed: int, number: int, ranks: int, *, sharded: bool) -> Life:
    """Start, kill, resume, perhaps again, and judge.

    Args:
        sharded: Split parameters in any case, where there are several processes.
    """
    dice = random.Random(f"{seed}/{number}")
    workers = dice.choice(WORKERS)
    sharded = ranks > 1 and (sharded or dice.random() < SHARDED)
    scene, seconds = stage.scene(ranks, workers, sharded=sharded)
    reference = stage.reference(ranks, sharded=sharded)
    shutil.rmtree(scene.run, ignore_errors=True)
    kills: list[Kill] = []
    problems: list[str] = []
    said = ""
    while not problems and (not kills or dice.random() < ANOTHER):
        before = newest_step(scene.run)
        kill, ended = kill_once(scene, draw_kill(dice, scene, workers, seconds))
        if not kill.codes:
            problems += [] if ended.finished else [f"it ended by itself with {ended.codes}"]
            break
        kills.append(kill)
        problems = judge_kill(kill, ended, scene, before) + differences(reference, scene.run, finished=False)
        problems = [f"after kill {len(kills)} ({kill.signal} to {kill.target}): {problem}" for problem in problems]
        said = ended.said if problems else ""
    ended = run_once(scene, scene.folder / "life.log")
    if ended.finished:
        problems += differences(reference, scene.run, finished=True)
    else:
        problems.append(f"the resume {'hung' if ended.hung else 'ended'} with {ended.codes}")
        said += ended.said
    return Life(commit(), seed, number, ranks, workers, tuple(kills), tuple(problems), said[-3000:], sharded)


def draw_kill(dice: random.Random, scene: Scene, workers: int, seconds: float) -> Kill:
    """Choose a kill."""
    number, target = dice.choice(SIGNALS), dice.choice(TARGETS if workers else TARGETS[:3])
    in_save = dice.random() < 0.5
    return Kill(
        signal="SIGKILL" if target == "decoder" else number,
        target=target,
        rank=dice.randrange(scene.ranks),
        event=dice.randint(1, MOST_EVENTS) if in_save else 0,
        delay=dice.uniform(0, LONGEST_DELAY if in_save else seconds),
        grace=dice.uniform(0, LONGEST_GRACE),
    )


def kill_once(scene: Scene, kill: Kill) -> tuple[Kill, Ended]:
    """Start or continue the run and kill it."""
    hears, tells = os.pipe()
    try:
        instruments = Instruments(scene, at=kill.event, mode="tell", tell=tells)
        training = Training(scene, scene.folder / "life.log", instruments).start()
        hit = wait_for_event(training, hears) if kill.event else ""
        wait_until(training, time.monotonic() + kill.delay)
        steps, sent = instruments.steps, send(training, kill)
        ended = training.wait()
    finally:
        os.close(hears)
        os.close(tells)
    return replace(kill, hit=hit, steps=steps, codes=ended.codes if sent else ()), ended


def wait_for_event(training: Training, hears: int) -> str:
    """Return what the training does to which file once its event comes; nothing where it ends before."""
    while training.running == list(range(training.scene.ranks)):
        if select.select([hears, *training.handles], [], [], 60)[0] == []:
            return ""
        if select.select([hears], [], [], 0)[0]:
            return os.read(hears, 1000).decode().strip()
        training.watch(0)
    return ""


def wait_until(training: Training, instant: float) -> None:
    """Wait, or until all processes have ended."""
    while training.running and time.monotonic() < instant:
        training.watch(instant - time.monotonic())


def send(training: Training, kill: Kill) -> bool:
    """Send the signals; return whether there was somebody to hear them."""
    training.watch(0)
    if not training.running:
        return False
    ranks = [kill.rank] if kill.target == "one" else training.running
    if kill.target == "decoder":
        return kill_decoder(training, kill.rank)
    first, _, second = kill.signal.partition("+")
    heard = kill.target != "one" or kill.rank in training.running
    training.send(signal.Signals[first], ranks, with_workers=kill.target == "group")
    if second:
        wait_until(training, time.monotonic() + kill.grace)
        training.send(signal.Signals[second], ranks, with_workers=kill.target == "group")
    return heard


def kill_decoder(training: Training, rank: int) -> bool:
    """Kill the first process that decodes for a rank; return whether there was one."""
    pid = training.pids[rank]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
                return True
    return False


# ---------------------------------------- the verdict on one kill
def judge_kill(kill: Kill, ended: Ended, scene: Scene, before: int) -> list[str]:
    """Say what is wrong with how a training took a kill.

    Args:
        before: Step of the newest whole checkpoint when it started.
    """
    found = ["it hung"] if ended.hung else []
    newest = newest_step(scene.run)
    if newest < before:
        found.append(f"lost: the newest whole checkpoint is of step {newest}, it was {before}")
    if kill.target == "decoder":
        return found + ([] if ended.finished else [f"a decoding process cost the run: {ended.codes}"])
    if ended.preempted:
        lines, _ = read_lines(scene.run)
        last = max((line["step"] for line in lines), default=0)
        found += [] if newest == last else [f"it left at step {last}, but its newest checkpoint is of step {newest}"]
    over = newest == STEPS  # a signal that comes between the last save and the end of the process may end it
    if "SIGKILL" not in kill.signal and kill.steps > 0 and not (ended.preempted or ended.finished or over):
        found.append(f"it did not save and leave: {ended.codes}")
    return found


def read_lives(record: Path) -> list[Life]:
    """Return what was done with this very code before."""
    if not record.exists():
        return []
    found = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    return [as_life(one) for one in found if one["commit"] == commit()]


def as_life(one: Mapping[str, object]) -> Life:
    """Return a life from its JSON."""
    kills = tuple(Kill(**{**kill, "codes": tuple(kill["codes"])}) for kill in one["kills"])  # type: ignore
    return Life(**{**one, "kills": kills, "problems": tuple(one["problems"])})  # type: ignore


if __name__ == "__main__":
    main()
