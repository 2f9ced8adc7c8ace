"""Share tests between a process that has collected them and a copy of it: one begins in front, the other at the end.

To import what is tested is most of what an answer about one part takes. Two processes that both import it take longer
than one, which is why xdist is not asked here: it starts each of its processes from nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import pytest

from tests.processes import keep_a_copy


class Told(NamedTuple):
    """What the copy says of a test: that it begins, or what came out, with warnings as text, kind and place."""

    position: int
    reports: list[dict[str, Any]]
    warnings: list[tuple[str, type[Warning], str, int, str]]
    is_over: bool


class Row:
    """Positions of tests that nobody has begun, for two who take from its two ends."""

    def __init__(self, length: int) -> None:
        self._ends = multiprocessing.Array("l", [0, length])

    def first(self) -> int | None:
        """Take the first; None if none is left."""
        with self._ends.get_lock():
            first, end = self._ends
            if first == end:
                return None
            self._ends[0] = first + 1
            return first

    def last(self) -> int | None:
        """Take the last; None if none is left."""
        with self._ends.get_lock():
            first, end = self._ends
            if first == end:
                return None
            self._ends[1] = end - 1
            return end - 1

    def leave(self) -> None:
        """Leave what nobody has begun."""
        with self._ends.get_lock():
            self._ends[1] = self._ends[0]


class Shared:
    """A plugin that runs the tests here and in a copy, and tells what came out of all of them here."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run all tests, unless collecting failed, which pytest answers itself."""
        if session.testsfailed:
            return None
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # one folder for both
        row = Row(len(session.items))
        here, there = multiprocessing.Pipe(duplex=False)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            here.close()
            _run_as_copy(session, row, there)
        there.close()
        try:
            self._run(session, row, Heard(session, here))
        finally:
            row.leave()
            os.waitpid(pid, 0)
        return True

    def _run(self, session: pytest.Session, row: Row, heard: Heard) -> None:
        left = set(range(len(session.items)))
        for position in _each_run(session, row.first):
            left.remove(position)
            heard.tell(waits=False)
            _stop_if_asked(session)
        while heard.is_alive:
            heard.tell(waits=True)
            _stop_if_asked(session)
        left -= heard.begun  # a copy that ended early has left what it took, and had not begun
        for _ in _each_run(session, lambda: left.pop() if left else None):
            _stop_if_asked(session)


class Heard:
    """What the copy says, told to the plugins of this process."""

    def __init__(self, session: pytest.Session, copy: Connection) -> None:
        self.is_alive = True
        self.begun: set[int] = set()
        self._session = session
        self._copy = copy
        self._now: int | None = None

    def tell(self, waits: bool) -> None:
        """Tell what came out of the tests that have ended; with `waits` of one at least, unless the copy has ended."""
        while self.is_alive and (waits or self._copy.poll()):
            try:
                told: Told = self._copy.recv()
            except EOFError:
                self.is_alive = False
                self._tell_of_death()
                return
            self.begun.add(told.position)
            self._now = None if told.is_over else told.position
            if told.is_over:
                self._tell(told)
                waits = False

    def _tell(self, told: Told) -> None:
        config = self._session.config
        for each in told.reports:
            report = config.hook.pytest_report_from_serializable(config=config, data=each)
            config.hook.pytest_runtest_logreport(report=report)
        nodeid = self._session.items[told.position].nodeid
        for text, category, filename, line, when in told.warnings:
            message = warnings.WarningMessage(text, category, filename, line)
            what = {"warning_message": message, "when": when, "nodeid": nodeid, "location": None}
            config.hook.pytest_warning_recorded.call_historic(kwargs=what)

    def _tell_of_death(self) -> None:
        """Fail the test in which the copy ended, if it did in one."""
        if self._now is not None:
            item = self._session.items[self._now]
            why = "its process ended in this test"
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")
            self._session.config.hook.pytest_runtest_logreport(report=report)


class Recorder:
    """What plugins of the copy would tell, to be told elsewhere."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.reports: list[dict[str, Any]] = []
        self.warnings: list[tuple[str, type[Warning], str, int, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what came out of a part of a test."""
        hook = self._config.hook.pytest_report_to_serializable
        self.reports.append(hook(config=self._config, report=report))

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str) -> None:
        """Keep a warning."""
        place = (warning_message.filename, warning_message.lineno, when)
        self.warnings.append((str(warning_message.message), warning_message.category, *place))


def _run_as_copy(session: pytest.Session, row: Row, heard: Connection) -> None:
    """Run tests from the end, tell what comes out, and end this process."""
    try:
        config = session.config
        config.pluginmanager.unregister(name="terminalreporter")
        capture: Any = config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()  # into files of its own
        keep_a_copy()  # and with copies of its own
        recorder = Recorder(config)
        config.pluginmanager.register(recorder)
        recorder.warnings = []  # of collecting, which are told
        for position in _each_run(session, row.last, lambda begun: heard.send(Told(begun, [], [], is_over=False))):
            heard.send(Told(position, recorder.reports, recorder.warnings, is_over=True))
            recorder.reports, recorder.warnings = [], []
            if session.shouldfail or session.shouldstop:
                break
    finally:
        os._exit(0)


def _each_run(
    session: pytest.Session, take: Callable[[], int | None], begin: Callable[[int], None] = lambda _: None
) -> Iterator[int]:
    """Run the tests whose positions are taken, one after the other; what they share stays until the next does not."""
    now = take()
    while now is not None:
        following = take()
        begin(now)
        item, nextitem = session.items[now], None if following is None else session.items[following]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        yield now
        now = following


def _stop_if_asked(session: pytest.Session) -> None:
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
