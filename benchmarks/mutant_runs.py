"""Run tests on a copy of the project with a fault in it, each time in a process forked for that."""

from __future__ import annotations

import compileall
import gc
import importlib
import os
import shlex
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

from benchmarks.measure import tree_pids
from benchmarks.mutant_operators import Mutant
from benchmarks.mutant_report import HUNG, KILLED, SURVIVED

NOT_COPIED = (".git", ".venv*", ".*_cache", "__pycache__", "runs", "exports", "dist", "embedded")
LINKED = "data/embedded"  # read only, and large
NOTICED = "noticed.txt"
OURS = ("vlp", "tests", "benchmarks")
SECONDS_BETWEEN_LOOKS = 0.02
NO_TESTS = int(pytest.ExitCode.NO_TESTS_COLLECTED)


@dataclass(frozen=True)
class Job:
    """A file with a fault, or as it is, and the tests that should notice.

    Args:
        call: Arguments of pytest.
        seconds: After which it counts as hung.
    """

    mutant: Mutant | None
    path: str
    source: str
    call: str
    seconds: float


def runs_of(jobs: Iterable[Job], copies: Sequence[Path], end: float) -> Iterator[Run]:
    """Run jobs in copies of the project; yield each when it has ended."""
    waiting, free, running = deque(jobs), list(copies), list[Run]()
    try:
        while running or (waiting and time.monotonic() < end):
            while free and waiting and time.monotonic() < end:
                running.append(Run(waiting.popleft(), free.pop()))
            for run in [run for run in running if run.has_ended()]:
                running.remove(run)
                free.append(run.copy)
                yield run
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        for run in running:
            run.kill()


class Run:
    """A job in a forked process, within a copy of the project."""

    def __init__(self, job: Job, copy: Path):
        self.job, self.copy, self.mutant = job, copy, job.mutant
        self.original = (copy / job.path).read_text(encoding="utf-8")
        self.started, self.seconds, self.outcome, self.noticed_by = time.monotonic(), 0.0, "", ""
        (copy / job.path).write_text(job.source, encoding="utf-8")
        (copy / NOTICED).write_text("", encoding="utf-8")
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = run_tests(job.call, copy)
            finally:
                os._exit(code)

    def has_ended(self) -> bool:
        """Whether it has; stop it where it took too long."""
        self.seconds = time.monotonic() - self.started
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0 and self.seconds < self.job.seconds:
            return False
        if pid == 0:
            self.kill()
            self.outcome = HUNG
        elif os.waitstatus_to_exitcode(status) == NO_TESTS:
            raise RuntimeError(f"{self.job.path}: there are no tests in: {self.job.call}")
        else:
            self.outcome = KILLED if status else SURVIVED
        self.noticed_by = (self.copy / NOTICED).read_text(encoding="utf-8")
        (self.copy / self.job.path).write_text(self.original, encoding="utf-8")
        return True

    def kill(self) -> None:
        """End it and every process that it started."""
        for pid in reversed(tree_pids(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class FirstFailure:
    """Remember which test noticed."""

    def __init__(self, path: Path):
        self.path = path

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Hear about a file that cannot be read."""
        self.pytest_runtest_logreport(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Hear about a test."""
        if report.failed and not self.path.read_text(encoding="utf-8"):
            self.path.write_text(report.nodeid, encoding="utf-8")


def run_tests(call: str, copy: Path) -> int:
    """Run tests in this process, which was forked for them, on a copy of the project; return pytest's exit code."""
    os.setsid()
    gc.freeze()  # pytest collects garbage at its start and its end; torch's modules are none
    log = os.open(copy / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(copy)
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), *filter(None, [os.environ.get("PYTHONPATH")])])
    importlib.invalidate_caches()
    words = [*shlex.split(call), "-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(copy / "tmp")]
    return int(pytest.main(words, plugins=[FirstFailure(copy / NOTICED)]))


def copy_project(root: Path, copy: Path) -> Path:
    """Copy what tests need, compiled ahead; what Python keeps of a file holds for these very bytes alone."""
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
    if (root / LINKED).exists():
        (copy / LINKED).symlink_to(root / LINKED)
    compileall.compile_dir(copy / "vlp", quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return copy
