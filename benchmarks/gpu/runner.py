"""Run the cases of one phase, one after the other, in processes that may crash or hang.

    python -m benchmarks.gpu.runner benchmarks.gpu.machine --phase A --device cpu --scratch FOLDER --results FILE

A child is forked from a process that has imported everything and touched no device. It carries out case after case
until one crashes, hangs, or wants to be alone; then the next child goes on. So one case is lost, and only it.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from benchmarks.gpu.cases import CRASHED, CUT, FAILED, SKIPPED, UNREACHED, Case, Row, Setting

MARK = "=== "
FRAMES = "(most recent call first):\n"  # what faulthandler writes above them
TAIL_LINES = 12
SECONDS_BETWEEN_LOOKS = 0.2
POISONED = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "an illegal memory access", "device-side assert")
Start = Literal["fork", "spawn"]


@dataclass(frozen=True)
class Assignment:
    """A phase to carry out, as a child can find it again.

    Args:
        module: Has `cases(setting)`.
        log: Where what it prints goes.
        patience: Factor on the time that cases may take.
    """

    letter: str
    module: str
    setting: Setting
    log: Path
    patience: float

    def cases(self) -> list[Case]:
        """Return its cases."""
        return list(importlib.import_module(self.module).cases(self.setting))


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out a phase."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.runner", description=__doc__)
    parser.add_argument("module")
    parser.add_argument("--phase", required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--patience", type=float, default=1.0)
    parsed = parser.parse_args(arguments)
    setting = Setting(parsed.device, parsed.scratch, parsed.results)
    log = parsed.scratch / f"{parsed.phase}.log"
    run(Assignment(parsed.phase, parsed.module, setting, log, parsed.patience))


def run(work: Assignment, start: Start = "fork") -> None:
    """Carry out all cases; each leaves a line in the results before the next begins."""
    left = work.cases()
    for case in left:
        _record(work, case, Row(work.letter, case.name, UNREACHED))
    while left:
        if left[0].needs:
            _record(work, left[0], Row(work.letter, left[0].name, SKIPPED, measured=f"needs {left[0].needs}"))
            left = left[1:]
            continue
        batch = _until_alone(left)
        done, start = _run_child(work, batch, start)
        left = left[done:]


def _until_alone(cases: Sequence[Case]) -> list[Case]:
    """Return the cases that one child carries out."""
    chosen = [cases[0]]
    for case in cases[1:]:
        if case.needs or case.alone or chosen[-1].alone:
            break
        chosen.append(case)
    return chosen


def _run_child(work: Assignment, cases: Sequence[Case], start: Start) -> tuple[int, Start]:
    """Return how many cases were dealt with, and how to start the next child."""
    context: Any = multiprocessing.get_context(start)
    ours, theirs = context.Pipe()
    names = [case.name for case in cases]
    child = context.Process(target=_carry_out, args=(work, names, theirs))
    child.start()
    _hand_signals_on(child.pid)
    theirs.close()
    done = 0
    while done < len(cases):
        began = time.monotonic()
        found = _hear(ours, child, cases[done].seconds * work.patience)
        if isinstance(found, str):
            status, what = CUT if child.is_alive() else CRASHED, found
            break
        if found is None:  # a device was touched before the fork: start over, without one
            _end(child)
            return 0, "spawn"
        row = Row(**found)
        _record(work, cases[done], row)
        done += 1
        if row.status == FAILED and any(word in row.measured for word in POISONED):
            _end(child)
            return done, start
    else:
        _end(child)
        return done, start
    _end(child)
    row = Row(work.letter, cases[done].name, status, measured=what, seconds=time.monotonic() - began)
    row.notes = _tail(work.log, cases[done].name)
    _record(work, cases[done], row)
    return done + 1, start


def _hear(answers: Connection, child: Any, seconds: float) -> dict[str, Any] | str | None:
    """Return what the child says next, or in words why it says nothing."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # the end of a pipe would not do: processes that the child started hold it too
        lives = child.is_alive()
        if answers.poll(SECONDS_BETWEEN_LOOKS if lives else 0):
            with suppress(EOFError, OSError):
                said: dict[str, Any] | None = answers.recv()
                return said
        if not lives:
            return f"the process ended with {_in_words(child.exitcode)}"
    return f"took longer than {seconds:.0f} s"


def _carry_out(work: Assignment, names: Sequence[str], results: Connection) -> None:
    """Be the child."""
    os.setsid()  # so that decoding processes and the like can be ended with it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch: Any = sys.modules.get("torch")
    if work.setting.device == "cuda" and torch is not None and torch.cuda._is_in_bad_fork():
        results.send(None)
        return
    by_name = {case.name: case for case in work.cases()}
    for name in names:
        case = by_name[name]
        print(f"{MARK}{name}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(max(0.1, case.seconds * work.patience - 1))
        began = time.monotonic()
        row = _find(work, case)
        row.seconds = round(time.monotonic() - began, 3)
        faulthandler.cancel_dump_traceback_later()
        results.send(vars(row))


def _find(work: Assignment, case: Case) -> Row:
    try:
        found = case.find()
    except Exception as error:
        traceback.print_exc()
        said = str(error).strip().splitlines() or [""]
        where = traceback.extract_tb(error.__traceback__)[-1]
        measured = f"{type(error).__name__}: {said[0][:300]} ({Path(where.filename).name}:{where.lineno})"
        return Row(work.letter, case.name, FAILED, measured=measured, notes=said[1:6])
    numbers, notes = dict(found.numbers), [*found.problems, *found.notes]
    return Row(work.letter, case.name, found.status, "", found.shown, found.share, numbers=numbers, notes=notes)


def _record(work: Assignment, case: Case, row: Row) -> None:
    row.expected = case.expected
    row.append_to(work.setting.results)
    if row.status != UNREACHED:
        share = "" if row.share is None else f"  {row.share:.0%} of the floor"
        print(f"{work.letter}  {row.status:8s} {row.case}: {row.measured}{share}", flush=True)


def _hand_signals_on(child: int) -> None:
    """End the child with this process."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        _kill(child)
        os._exit(1)

    signal.signal(signal.SIGTERM, leave)


def _end(child: Any) -> None:
    _kill(child.pid)
    child.join()


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # before it has a group of its own, it is alone
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _in_words(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _tail(log: Path, case: str) -> list[str]:
    """Return the last lines that a case printed; of one that hung, where its main thread was."""
    text = log.read_text(errors="replace") if log.exists() else ""
    own = text.rpartition(f"{MARK}{case}\n")[2]
    _, hung, frames = own.rpartition(FRAMES)
    return frames.splitlines()[:TAIL_LINES] if hung else own.splitlines()[-TAIL_LINES:]


if __name__ == "__main__":
    main()
