"""Run a command and say what it cost: wall time, processor time, and the memory of all its processes together."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SECONDS_BETWEEN_SAMPLES = 0.5
SECONDS_BETWEEN_WORDS = 30.0


@dataclass(frozen=True)
class Cost:
    """What one command took.

    Args:
        wall_seconds: From the start of the command to its end, imports included.
        cpu_seconds: User and system time of the command and of every process that it waited for.
        peak_bytes: Largest sum of the proportional set sizes of all its processes at one sample.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def run_measured(
    command: Sequence[str],
    log: Path,
    *,
    folder: Path,
    environment: Mapping[str, str],
    tell: Callable[[str], None],
) -> Cost:
    """Run a command in `folder`, its output in `log`, and measure it; `tell` hears about the progress.

    Raises:
        RuntimeError: The command failed; shows the end of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    before, start = _children_seconds(), time.monotonic()
    peak, told = 0, start
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while _is_running(process):
                peak = max(peak, tree_bytes(process.pid))
                if time.monotonic() - told > SECONDS_BETWEEN_WORDS:
                    told = time.monotonic()
                    tell(f"{told - start:6.0f} s  {peak / 1e9:.2f} GB  {last_line(log)}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode} of: {' '.join(command)}\n{_tail(log)}\nsee {log}")
    return Cost(time.monotonic() - start, _children_seconds() - before, peak)


def tree_bytes(pid: int, kinds: Sequence[str] = ("Pss",)) -> int:
    """Return the memory of a process and its descendants; pages that they share count once.

    Args:
        kinds: Lines of /proc/PID/smaps_rollup that are added up. `Pss` is all, program files included, whose share
            falls when an unrelated process uses the same files; `Pss_Anon` and `Pss_Shmem` are its own.

    Raises:
        RuntimeError: This system has no /proc that tells proportional set sizes (Linux has).
    """
    if not (PROC / "self" / "smaps_rollup").exists():
        raise RuntimeError("memory is measured from /proc/PID/smaps_rollup, which this system does not have")
    return sum(_proportional_bytes(member, kinds) for member in tree_pids(pid))


def tree_seconds(pid: int) -> float:
    """Return the processor time so far of a process and its descendants, ended ones included, in steps of 10 ms."""
    return sum(map(_processor_ticks, tree_pids(pid))) / os.sysconf("SC_CLK_TCK")


def last_line(log: Path) -> str:
    """Return the last line of a log, as a terminal would show it."""
    lines = _tail(log).replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:110]


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=SECONDS_BETWEEN_SAMPLES)
    except subprocess.TimeoutExpired:
        return True
    return False


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def tree_pids(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (stat := _stat(int(folder.name))):
            children.setdefault(int(stat[1]), []).append(int(folder.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def _stat(pid: int) -> list[str]:
    """Return what stands behind the name in a process's line of numbers; nothing where it has ended meanwhile."""
    try:
        # the name in brackets may hold blanks and brackets itself
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _processor_ticks(pid: int) -> int:
    # user and system time, of its own and of the children that it waited for; whole, as sums of fractions may fall
    return sum(map(int, _stat(pid)[11:15]))


def _proportional_bytes(pid: int, kinds: Sequence[str]) -> int:
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.split(":")[0] in kinds)


def _tail(log: Path, size: int = 4000) -> str:
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - size))
        return file.read().decode(errors="replace")
