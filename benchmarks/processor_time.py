"""What a training cost in processor time, kept in a file beside its run."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path


def timed(to: Path, work: Callable[[], Path]) -> Path:
    """Return what some work returns, and keep the seconds it took, those of its processes included.

    A file that is there stays: work that is done already takes none. One that was interrupted is not known.
    """
    before = processor_seconds()
    result = work()
    if not to.exists():
        to.write_text(f"{processor_seconds() - before:.1f}\n", encoding="utf-8")
    return result


def minutes_in(path: Path) -> float:
    """Return what was kept, in minutes."""
    return float(path.read_text(encoding="utf-8")) / 60


def processor_seconds() -> float:
    """Return the processor time of this process and of those that it waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
