"""Feed every parser of strangers' bytes with inputs that were changed at random, for as long as you like.

    python -m benchmarks.fuzz --minutes 60 --to benchmarks/reports
    python -m benchmarks.fuzz --minutes 5 --targets tar index --seed 7

Each target (benchmarks/fuzz_targets.py) has its turn for a second at a time, in a process of its own. A finding is
whatever is raised beyond the project's own refusals, what takes longer than ten seconds, and a process that dies; its
input is kept under --work, and `--again FILE TARGET` feeds it once more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.dated_report import command_line, write_page
from benchmarks.fuzz_targets import INTERESTING, TARGETS, try_one
from benchmarks.quick import add_quick, settle
from benchmarks.tables import markdown

TURN = 1.0  # seconds
LIMIT = 10  # seconds for one input
MOST_EDITS = 6


@dataclass(frozen=True)
class Edit:
    """A change of some bytes.

    Args:
        kind: `flip` a bit, `set` or `insert` bytes, `drop`, `double` or `move` a piece, or `cut` the rest off.
        place: Where, as a share of the length.
        size: Bytes of a piece.
        data: What is set or inserted.
    """

    kind: str
    place: float
    size: int
    data: bytes


KINDS = ("flip", "set", "insert", "drop", "double", "move", "cut")


def change(content: bytes, edits: Sequence[Edit]) -> bytes:
    """Apply edits, one after the other."""
    changed = bytearray(content)
    for edit in edits:
        place = min(int(edit.place * (len(changed) + 1)), len(changed))
        piece = bytes(changed[place : place + edit.size])
        if edit.kind == "flip" and place < len(changed):
            changed[place] ^= 1 << edit.size % 8
        elif edit.kind == "set":
            changed[place : place + len(edit.data)] = edit.data
        elif edit.kind == "insert":
            changed[place:place] = edit.data
        elif edit.kind == "drop":
            del changed[place : place + edit.size]
        elif edit.kind == "double":
            changed[place:place] = piece
        elif edit.kind == "move":
            del changed[place : place + edit.size]
            changed[:0] = piece
        elif edit.kind == "cut":
            del changed[place:]
    return bytes(changed)


def draw_edits(dice: random.Random) -> list[Edit]:
    """Draw a few edits; small ones more often."""
    return [
        Edit(
            kind=dice.choices(KINDS, (6, 3, 3, 2, 2, 1, 1))[0],
            place=dice.random(),
            size=int(2 ** dice.uniform(0, 10)),
            data=dice.choice(INTERESTING) if dice.random() < 0.7 else dice.randbytes(dice.randrange(1, 9)),
        )
        for _ in range(dice.randrange(1, MOST_EDITS + 1))
    ]


@dataclass(frozen=True)
class Turn:
    """What a target took in a turn.

    Args:
        inputs: Inputs fed.
        taken: Of these, how many it did not refuse.
        findings: Kind of trouble, and the file of its input.
    """

    target: str
    inputs: int
    taken: int
    findings: tuple[tuple[str, str], ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzz, write a report; leave with 1 where something was found."""
    parsed = settle(build_parser().parse_args(arguments))
    if parsed.again:
        feed_again(*parsed.again)
        return
    parsed.work.mkdir(parents=True, exist_ok=True)
    end, turns, number = time.monotonic() + 60 * parsed.minutes, [], 0
    with tqdm(total=int(60 * parsed.minutes), unit="s", disable=None) as bar:
        while time.monotonic() < end:
            for name in parsed.targets:
                started = time.monotonic()
                turns.append(take_turn(name, f"{parsed.seed} {name} {number}", parsed.work))
                bar.update(round(time.monotonic() - started))
                bar.set_postfix_str(f"{sum(len(turn.findings) for turn in turns)} findings")
            number += 1
    if parsed.to is not None:
        words = command_line("fuzz", arguments)
        print(write_report(parsed.to, words, turns), file=sys.stderr)
    found = [finding for turn in turns for finding in turn.findings]
    for kind, file in found[:50]:
        print(f"{file}: {kind}")
    print(f"{sum(turn.inputs for turn in turns):,} inputs, {len(found)} findings")
    sys.exit(1 if found else 0)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs")
    parser.add_argument("--work", type=Path, default=Path("runs/fuzz"), help="folder of inputs that found something")
    parser.add_argument("--to", type=Path, help="folder of the report, such as benchmarks/reports; default: none")
    parser.add_argument("--again", nargs=2, metavar=("FILE", "TARGET"), help="feed one input, and show what it does")
    add_quick(parser, minutes=1.0)
    return parser


def feed_again(file: str, target: str) -> None:
    """Feed one input, and let whatever it raises be seen."""
    with tempfile.TemporaryDirectory() as folder:
        print("taken" if try_one(TARGETS[target], Path(folder), Path(file).read_bytes()) else "refused")


# ---------------------------------------- one turn, in a process of its own
def take_turn(name: str, seed: str, work: Path) -> Turn:
    """Fork, feed a target for a while, and return what came of it; a child that dies is a finding."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as out:
            feed_for_a_while(name, seed, work, out)
        os._exit(0)
    os.close(writer)
    inputs, taken = 0, 0
    findings: list[tuple[str, str]] = []
    with os.fdopen(reader) as told:
        for line in told:
            said = json.loads(line)
            inputs += said["inputs"]
            taken += said["taken"]
            findings += [(said["finding"], said["file"])] if said["finding"] else []
    _, status = os.waitpid(child, 0)
    if status:
        last = _last(name, work)
        kept = _kept(name, work, last.read_bytes() if last.exists() else b"")
        findings.append((f"the process ended with {os.waitstatus_to_exitcode(status)}", kept))
    _last(name, work).unlink(missing_ok=True)
    return Turn(name, inputs, taken, tuple(findings))


def feed_for_a_while(name: str, seed: str, work: Path, out: object) -> None:
    """Feed a target until its turn is over, and write a line per finding and one at the end."""
    target, dice = TARGETS[name], random.Random(seed)
    seeds = target.seeds()
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    signal.signal(signal.SIGALRM, _too_long)
    inputs = taken = 0
    end = time.monotonic() + TURN
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            content = change(dice.choice(seeds), draw_edits(dice))
            place = Path(folder) / str(inputs)
            place.mkdir()
            _last(name, work).write_bytes(content)  # for whoever asks what the process died of
            finding = ""
            signal.alarm(LIMIT)
            try:
                taken += try_one(target, place, content)
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                finding = f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
            finally:
                signal.alarm(0)
            inputs += 1
            shutil.rmtree(place, ignore_errors=True)
            if finding:
                _tell(out, finding=finding, file=_kept(name, work, content))
    _tell(out, inputs=inputs, taken=taken)


def _last(name: str, work: Path) -> Path:
    """Return where the input that is being fed lies."""
    return work / f"{name.replace(' ', '_')}.last"


def _kept(name: str, work: Path, content: bytes) -> str:
    """Keep an input that found something; return its file."""
    file = work / f"{name.replace(' ', '_')}_{hashlib.sha256(content).hexdigest()[:12]}.bin"
    file.write_bytes(content)
    return str(file)


class _TooLongError(BaseException):
    """An input on which a parser hangs."""


def _too_long(*_: object) -> None:
    raise _TooLongError(f"more than {LIMIT} s")


def _tell(out: object, *, finding: str = "", file: str = "", inputs: int = 0, taken: int = 0) -> None:
    print(json.dumps({"finding": finding, "file": file, "inputs": inputs, "taken": taken}), file=out, flush=True)  # type: ignore[call-overload]


def write_report(folder: Path, command: str, turns: Sequence[Turn]) -> Path:
    """Write what was found as a page and as JSON; return the page."""
    rows = [["parser", "inputs", "not refused", "findings"]]
    for name in dict.fromkeys(turn.target for turn in turns):
        own = [turn for turn in turns if turn.target == name]
        counts = (sum(turn.inputs for turn in own), sum(turn.taken for turn in own), sum(len(t.findings) for t in own))
        rows.append([name, *(f"{count:,}" for count in counts)])
    found = [finding for turn in turns for finding in turn.findings]
    sections = [
        f"{sum(turn.inputs for turn in turns):,} inputs, made from sound ones by one to {MOST_EDITS} edits each. A "
        "parser may refuse an input in the project's own words, and must not hang, die or raise anything else; what "
        "else is demanded of each stands in `benchmarks/fuzz_targets.py`.",
        markdown(rows),
    ]
    if found:
        sections += ["## Findings", "\n".join(f"- {kind}" for kind in dict.fromkeys(kind for kind, _ in found))]
    return write_page(folder, "fuzz", "Fuzzed parsers", command, sections, [asdict(turn) for turn in turns])


if __name__ == "__main__":
    main()
