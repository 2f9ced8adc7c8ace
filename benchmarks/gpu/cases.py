"""What a phase of the check consists of, and what becomes of each part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

PASSED, MISSED, FAILED = "passed", "missed", "failed"
CRASHED, CUT, SKIPPED, UNREACHED = "crashed", "cut", "skipped", "not reached"
BAD = (FAILED, CRASHED, CUT, UNREACHED)
"""What makes the whole check fail; a number that is worse than expected does not."""
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Setting:
    """What all phases of one check share.

    Args:
        device: Where it runs; on the CPU everything is a toy that exercises the same code.
        scratch: Folder for what cases hand on to later ones.
        results: File of the results so far.
    """

    device: Device
    scratch: Path
    results: Path

    @property
    def is_toy(self) -> bool:
        """Whether sizes are small, and no speed is expected."""
        return self.device == "cpu"

    def earlier(self, phase: str, case: str) -> dict[str, Any]:
        """Return the numbers of an earlier case, none where it did not get that far."""
        found = [row for row in read(self.results) if (row["phase"], row["case"]) == (phase, case)]
        return found[-1].get("numbers", {}) if found else {}


@dataclass(frozen=True)
class Finding:
    """What a case found.

    Args:
        shown: It, in a few words.
        numbers: All of it, for programs.
        share: How much of what the hardware allows was reached.
        problems: What is wrong; one is enough for the case to fail.
        missed: Whether all is right, but worse than expected.
        skipped: Whether there was nothing to find on this machine.
        notes: What else the reader should know.
    """

    shown: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    share: float | None = None
    problems: tuple[str, ...] = ()
    missed: bool = False
    skipped: bool = False
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """The verdict."""
        if self.problems:
            return FAILED
        return SKIPPED if self.skipped else MISSED if self.missed else PASSED


@dataclass(frozen=True)
class Case:
    """One thing to find out.

    Args:
        expected: In words.
        seconds: After which it is taken to hang.
        alone: Whether it wants a process of its own, which nobody used before.
        needs: What this machine lacks for it: it is skipped, and says so.
    """

    name: str
    find: Callable[[], Finding]
    expected: str = ""
    seconds: float = 30.0
    alone: bool = False
    needs: str = ""


@dataclass
class Row:
    """The line of a case in the results."""

    phase: str
    case: str
    status: str
    expected: str = ""
    measured: str = ""
    share: float | None = None
    seconds: float = 0.0
    numbers: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def append_to(self, file: Path) -> None:
        """Write the line; it replaces earlier ones of the same case."""
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(self)) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """Return the newest line of every case, in the order of their first ones."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _lines(file):
        newest[row["phase"], row["case"]] = row
    return list(newest.values())


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # the line that was being written when a process was killed
