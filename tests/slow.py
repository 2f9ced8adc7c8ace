"""Which tests are slow: those that `tests/slow.txt` lists, a line for each function that took long when all were timed.

Among its lines are also single cases that took long. `pytest --renew-slow` writes what it timed into the list, and
leaves the rest of it as it is. A test marked `claim` runs with the quick ones, however long it takes. `pytest -k NAME`
leaves out cases that take long, and what is marked `long`; and says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

LIST = Path(__file__).with_name("slow.txt")
ONE_CASE, ALL_CASES = 1.5, 5.0  # seconds: a function is slow if one of its cases takes so long, or all of them do
LEFT_OUT = "left out"
PATIENCE = 1.0  # seconds that a case may take where `pytest -k NAME` asks about one part


def listed() -> dict[str, float]:
    """Return what is listed: functions, with the seconds of all their cases, and single cases."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return {name: float(seconds) for seconds, _, name in (line.lstrip().partition(" ") for line in lines)}


def mark(items: list[pytest.Item]) -> None:
    """Mark the cases of functions that are listed."""
    slow = listed()
    for item in items:
        if function_of(item.nodeid) in slow and item.get_closest_marker("claim") is None:
            item.add_marker(pytest.mark.slow)


def long_cases(items: list[pytest.Item]) -> set[str]:
    """Return the names of the cases, of all that were collected, that take longer than somebody waits for one part."""
    long = {name for name, seconds in listed().items() if seconds > PATIENCE}
    return {item.nodeid for item in items if item.nodeid in long or item.get_closest_marker("long")}


class QuickAnswer:
    """Leave out what takes long where tests are chosen by `-k` alone, unless nothing else would be left."""

    def __init__(self) -> None:
        self.num_left_out = 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
        """Look at all tests before some are chosen, and at the chosen ones behind that."""
        long = long_cases(items)
        yield
        quick = [item for item in items if item.nodeid not in long]
        if quick:
            left_out = [item for item in items if item.nodeid in long]
            items[:] = quick
            config.hook.pytest_deselected(items=left_out)
            self.num_left_out = len(left_out)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell it to the process that gives out tests, if there is one."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[LEFT_OUT] = self.num_left_out

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hear what a process left out; all leave out the same."""
        self.num_left_out = getattr(node, "workeroutput", {}).get(LEFT_OUT, 0)  # nothing of one that died

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was left out, and how to run it."""
        if self.num_left_out:
            few = f"{self.num_left_out} of over {PATIENCE:.0f} s each"
            terminalreporter.write_line(f'left out: {few}; with -m "slow or not slow" they run, too')


def function_of(nodeid: str) -> str:
    """Return what a test is called without its parameters."""
    return nodeid.partition("[")[0]


class Stopwatch:
    """Write the list anew from what the tests of this run take."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up set-up, call and tear-down."""
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        """Write the list, the slowest first."""
        LIST.write_text(lines_of(self.seconds, listed()), encoding="utf-8")


def lines_of(seconds: Mapping[str, float], known: Mapping[str, float]) -> str:
    """Return the list, from the seconds of each case and what is known of functions that were timed before."""
    cases: defaultdict[str, list[float]] = defaultdict(list)
    for nodeid, taken in seconds.items():
        cases[function_of(nodeid)].append(taken)
    slow = {name: taken for name, taken in known.items() if function_of(name) not in cases}
    slow |= {nodeid: taken for nodeid, taken in seconds.items() if taken > PATIENCE}
    slow |= {name: sum(each) for name, each in cases.items() if max(each) > ONE_CASE or sum(each) > ALL_CASES}
    return "".join(f"{taken:7.1f} {name}\n" for name, taken in sorted(slow.items(), key=lambda pair: -pair[1]))
