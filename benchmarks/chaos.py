"""Let every file event of a training go wrong in every way, resume, and compare with a run that nothing disturbed.

    python -m benchmarks.chaos                                  # one process and two, every event in every mode
    python -m benchmarks.chaos --ranks 1 --modes kill nospace --scenes first --limit 20

A dry run lists what a training does to its files and, before each of these events, which whole checkpoint is the
newest: it must never go back. Then each event goes wrong once per mode. Whatever is left must hold no worse checkpoint
than the dry run had at that instant, `--resume` must finish, and the state of every step and every line of metrics must
be those of the undisturbed run, bit for bit. After ENOSPC and EIO the run itself must go on and say so.

What was tried is kept under --work; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from benchmarks.chaos_report import write_report
from benchmarks.dated_report import command_line
from benchmarks.file_events import DATA, ERRORS, GROWING, MODES, REMOVING
from benchmarks.forked_runs import (
    Ended,
    Reference,
    Scene,
    differences,
    make_reference,
    newest_step,
    run_once,
    set_up,
    warm_up,
    whole_checkpoints,
)
from benchmarks.instruments import Instruments
from benchmarks.quick import add_quick, settle
from vlp.ground.provenance import commit

STEPS, EVERY = 10, 3
MARGIN = 4  # events behind the one that ends a part, so that what follows it is part of it


@dataclass(frozen=True)
class Event:
    """What a training does to a file.

    Args:
        newest: Step of the newest whole checkpoint before it; 0 where there is none.
        steps: Steps that this start had done before it.
    """

    number: int
    kind: str
    path: str
    newest: int
    steps: int


@dataclass(frozen=True)
class Outcome:
    """What came of one event going wrong."""

    commit: str
    scene: str
    ranks: int
    mode: str
    event: Event
    codes: tuple[int, ...]
    problems: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Part:
    """A part of a run's life, from a folder as it is at its beginning.

    Args:
        keep: Checkpoints that stay.
        dies_at: Step at which the run that leaves the folder was killed; 0 for an empty folder.
        damaged: Whether the newest checkpoint of that folder lost a bit.
        stops_at: Step at which SIGTERM comes, right before a checkpoint is due.
        until: Step whose checkpoint ends the part.
    """

    keep: int
    dies_at: int = 0
    damaged: bool = False
    stops_at: int = 0
    until: int = STEPS


PARTS = {
    "first": Part(keep=2, until=EVERY),
    "rotation": Part(keep=2, dies_at=8),
    "resave": Part(keep=2, dies_at=8, damaged=True, until=2 * EVERY),
    "last": Part(keep=2, dies_at=STEPS),
    "again": Part(keep=1, dies_at=8, stops_at=3 * EVERY),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Try everything, write a report; leave with 1 where a promise is broken."""
    parsed = settle(build_parser().parse_args(arguments))
    parsed.work.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for ranks in parsed.ranks:
        for name in parsed.scenes:
            outcomes += try_part(name, ranks, parsed)
    if parsed.to is not None:
        words = command_line("chaos", arguments)
        print(write_report(parsed.to, words, outcomes), file=sys.stderr)
    broken = [outcome for outcome in outcomes if outcome.problems]
    for outcome in broken:
        print(f"{name_of(outcome)}: {'; '.join(outcome.problems)}")
    print(f"{len(outcomes)} tried, {len(broken)} broken")
    sys.exit(1 if broken or not outcomes else 0)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES), metavar="MODE")
    parser.add_argument("--scenes", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--limit", type=int, metavar="N", help="most events per scene, mode and number of ranks")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/chaos"), help="folder of the runs and of what was tried"
    )
    parser.add_argument("--to", type=Path, help="folder of the report, such as benchmarks/reports; default: none")
    add_quick(parser, limit=2, scenes=["first"], ranks=[1])
    return parser


def name_of(outcome: Outcome) -> str:
    """Return which event went wrong how."""
    event = outcome.event
    return f"{outcome.scene} x{outcome.ranks} {outcome.mode} #{event.number} {event.kind} {event.path}"


# ---------------------------------------- one part of a life
def try_part(name: str, ranks: int, parsed: argparse.Namespace) -> Iterator[Outcome]:
    """Yield the outcome of every event and mode, those of earlier starts included."""
    part, folder = PARTS[name], (parsed.work / f"{name}_{ranks}").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    scene = set_up(folder, ranks=ranks, steps=STEPS, every=EVERY, keep=part.keep)
    warm_up(scene)
    reference = make_reference(folder / "reference", ranks=ranks, steps=STEPS)
    before = make_beginning(scene, part)
    events, litter = list_events(scene, part, before)
    # a damaged checkpoint that no save takes the place of stays where it is: it is not the run's to remove
    begun = before / scene.run.name
    litter |= {name for name in files_of(begun) if name.startswith("checkpoints/")} - {
        str(path) for path in in_whole_checkpoints(begun)
    }
    record = parsed.work / "outcomes.jsonl"
    known = {(o.scene, o.ranks, o.mode, o.event.number): o for o in read_outcomes(record)}
    plan = [
        (mode, event)
        for mode in parsed.modes
        if mode != "peer" or ranks > 1
        for event in chosen(in_part(events, part), mode, parsed.limit)
    ]
    if going_back := [event for event, after in pairwise(events) if after.newest < event.newest]:
        yield Outcome(commit(), name, ranks, "none", going_back[0], (0,), ("the newest whole checkpoint is lost",), "")
    for mode, event in tqdm(plan, desc=f"{name}, {ranks} ranks", unit="fault", disable=None):
        outcome = known.get((name, ranks, mode, event.number))
        if outcome is None:
            begin_again(scene, before)
            outcome = try_event(scene, name, mode, event, events, reference, litter)
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
        yield outcome


def make_beginning(scene: Scene, part: Part) -> Path:
    """Return a folder that holds the runs as they are before the part."""
    before = scene.folder / "before"
    if part.dies_at:
        run_once(scene, scene.folder / "before.log", Instruments(scene, stops_at=part.dies_at, number=signal.SIGKILL))
    if part.damaged:
        file = scene.run / "checkpoints" / f"step_{newest_step(scene.run):08d}" / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    shutil.copytree(scene.runs, before)
    return before


def begin_again(scene: Scene, before: Path) -> None:
    """Put the runs back."""
    shutil.rmtree(scene.runs)
    shutil.copytree(before, scene.runs)


def list_events(scene: Scene, part: Part, before: Path) -> tuple[list[Event], set[str]]:
    """Return the events of a run in which nothing goes wrong, and the files that it leaves."""
    begin_again(scene, before)
    path = scene.folder / "events.tsv"
    path.write_bytes(b"")
    ended = run_once(scene, scene.folder / "dry.log", Instruments(scene, stops_at=part.stops_at, log=path))
    if not (ended.finished or ended.preempted):
        raise RuntimeError(f"the dry run ended with {ended.codes}:\n{ended.said}")
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        number, kind, name, newest, steps = line.split("\t")
        events.append(Event(int(number), kind, name, int(newest), int(steps)))
    if ended.preempted:
        run_once(scene, scene.folder / "dry.log")
    return events, files_of(scene.run)


def in_part(events: Sequence[Event], part: Part) -> list[Event]:
    """Return the events until the part's last checkpoint is there, and some behind it."""
    last = next((event.number for event in events if event.newest >= part.until), len(events))
    return [event for event in events if event.number <= last + MARGIN or part.until == STEPS]


def chosen(events: Sequence[Event], mode: str, limit: int | None) -> list[Event]:
    """Return at most `limit` events, evenly spread, of those that can go wrong in this way."""
    kinds = {"torn": DATA, "nospace": GROWING, "full": GROWING}.get(mode)
    fit = [event for event in events if kinds is None or event.kind in kinds]
    if limit is None or len(fit) <= limit:
        return list(fit)
    return [fit[k * len(fit) // limit] for k in range(limit)]


def files_of(run: Path) -> set[str]:
    """Return the names of all that lies in a run folder."""
    return {str(path.relative_to(run)) for path in run.rglob("*") if not path.name.startswith("quarantine")}


def in_whole_checkpoints(run: Path) -> Iterator[Path]:
    """Yield the names in whole checkpoints, more of which than `keep` may stay after a kill."""
    for found in whole_checkpoints(run):
        yield from (path.relative_to(run) for path in (found.path, *found.path.iterdir()))


# ---------------------------------------- one event
def try_event(
    scene: Scene,
    name: str,
    mode: str,
    event: Event,
    events: Sequence[Event],
    reference: Reference,
    litter: set[str],
) -> Outcome:
    """Let an event go wrong, resume, and judge."""
    log = scene.folder / "fault.log"
    ended = run_once(scene, log, Instruments(scene, stops_at=PARTS[name].stops_at, at=event.number, mode=mode))
    problems = judge_end(ended, mode, event)
    newest, wanted = newest_step(scene.run), newest_wanted(mode, event, events)
    if newest < wanted:
        problems.append(f"lost: the newest whole checkpoint is of step {newest}, it was {wanted}")
    problems += [f"before the resume: {found}" for found in differences(reference, scene.run, finished=False)]
    resumed = run_once(scene, log)
    if not resumed.finished:
        problems.append(f"the resume {'hung' if resumed.hung else 'ended'} with {resumed.codes}: {last_words(resumed)}")
    else:
        problems += differences(reference, scene.run, finished=True)
        if left := files_of(scene.run) - litter - {str(path) for path in in_whole_checkpoints(scene.run)}:
            problems.append(f"left behind: {', '.join(sorted(left)[:3])}")
    return Outcome(commit(), name, scene.ranks, mode, event, ended.codes, tuple(problems), ended.said[-2000:])


def judge_end(ended: Ended, mode: str, event: Event) -> list[str]:
    """Say what is wrong with how a training took its fault."""
    if ended.hung:
        return ["it hung"]
    if mode == "peer":
        return []
    if mode not in ERRORS and mode != "term":
        return [] if ended.codes[0] == -signal.SIGKILL else [f"the event never came: {ended.codes}"]
    found = [f"a traceback: {last_words(ended)}"] if ended.traceback else []
    if mode == "term":
        asleep = event.steps == 0 and ended.codes[0] == -signal.SIGTERM
        return found + ([] if ended.preempted or ended.finished or asleep else [f"after SIGTERM: {ended.codes}"])
    if os.strerror(ERRORS[mode]).lower() not in ended.said.lower() and event.kind not in REMOVING:
        found.append("it says nothing of the fault")
    # a run that cannot begin, or whose last state cannot be saved, must not end as if all were well
    may_refuse = event.steps == 0 or event.newest == STEPS or f"no checkpoint at step {STEPS}" in ended.said
    goes_on = ended.finished or ended.preempted or may_refuse
    return found + ([] if goes_on or ended.traceback else [f"it did not go on: {last_words(ended)}"])


def newest_wanted(mode: str, event: Event, events: Sequence[Event]) -> int:
    """Return the step of the checkpoint that must still be there.

    Until a save has returned, its checkpoint may be lost with the power; the one before may not.
    """
    if mode not in ("power", "hollow"):
        return event.newest
    earlier = [other.newest for other in events if other.number <= event.number and other.newest < event.newest]
    return max(earlier, default=0)


def last_words(ended: Ended) -> str:
    """Return the last line of what a training said, the progress bar apart."""
    lines = [line.strip() for line in ended.said.splitlines()]
    return next((line for line in reversed(lines) if line and "step/s" not in line), "")[:200]


def read_outcomes(record: Path) -> list[Outcome]:
    """Return what this very code was tried with before."""
    if not record.exists():
        return []
    found = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    return [
        Outcome(
            **{**one, "event": Event(**one["event"]), "codes": tuple(one["codes"]), "problems": tuple(one["problems"])}
        )
        for one in found
        if one["commit"] == commit()
    ]


if __name__ == "__main__":
    main()
