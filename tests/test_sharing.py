"""A run that shares its tests with a copy of itself tells of all of them what a run alone tells."""

from __future__ import annotations

import json
from textwrap import dedent

import pytest

from tests.forks import forked
from tests.sharing import Row, Shared

MIXED = """
    import os, warnings
    import pytest

    @pytest.fixture(scope="module")
    def shared(request):
        yield os.getpid()
        with open(FILE, "a") as file:
            file.write(f"{os.getpid()}\\n")

    @pytest.mark.parametrize("number", range(40))
    def test_passes(number, shared, capfd, tmp_path):
        os.write(1, b"%d" % number)
        assert capfd.readouterr().out == str(number)
        assert shared == os.getpid()

    @pytest.mark.parametrize("number", range(6))
    def test_fails(number):
        print("printed", number)
        warnings.warn(f"warned {number}")
        assert number % 2

    def test_is_not_set_up(nothing):
        pass

    @pytest.mark.skip(reason="not here")
    def test_is_skipped():
        pass

    @pytest.mark.xfail
    def test_is_known_to_fail():
        assert False
"""
DEADLY = """
    import os, time
    import pytest

    here = os.getpid()

    @pytest.mark.parametrize("number", range(30))
    def test_it(number):
        time.sleep(0.01)
        if os.getpid() != here and number < 28:
            os._exit(1)
"""


class Notes:
    """What a run told, written down by the process that began it."""

    def __init__(self, file):
        self.file, self.told, self.warned = file, {}, []

    def pytest_runtest_logreport(self, report):
        printed = [text for title, text in report.sections if "stdout" in title]
        self.told.setdefault(report.nodeid.partition("::")[2], []).append([report.when, report.outcome, printed])

    def pytest_warning_recorded(self, warning_message, when, nodeid):
        self.warned.append([str(warning_message.message), warning_message.category.__name__, when, nodeid])

    def pytest_unconfigure(self):
        self.file.write_text(json.dumps({"told": self.told, "warned": sorted(self.warned)}))


def run(folder, text, *plugins, options=()):
    """Run a file of tests, and return its exit code, what it told and what fixtures wrote."""
    folder.mkdir()
    (folder / "test_it.py").write_text(f"FILE = {str(folder / 'written')!r}\n{dedent(text)}")
    words = [str(folder), "--rootdir", str(folder), "-p", "no:cacheprovider", "-p", "no:xdist", "-q", *options]

    def in_fork():
        code = pytest.main([*words, "--basetemp", str(folder / "tmp")], plugins=[Notes(folder / "notes"), *plugins])
        (folder / "code").write_text(str(int(code)))

    assert forked(in_fork)
    written = folder / "written"
    notes = json.loads((folder / "notes").read_text())
    return int((folder / "code").read_text()), notes, written.read_text().split() if written.exists() else []


def test_all_is_told_as_by_one_process(tmp_path):
    code, alone, by_one = run(tmp_path / "alone", MIXED)
    shared_code, shared, by_two = run(tmp_path / "shared", MIXED, Shared())
    assert shared_code == code == pytest.ExitCode.TESTS_FAILED
    assert shared == alone
    assert len(shared["told"]) == 49
    assert len([1 for said in shared["warned"] if said[0].startswith("warned")]) == 6
    assert len(by_one) == 1
    assert 1 <= len(set(by_two)) == len(by_two) <= 2  # each tears down once what it set up


def test_a_copy_that_dies_fails_the_test_it_died_in_and_no_other(tmp_path):
    code, notes, _ = run(tmp_path / "it", DEADLY, Shared())
    assert code == pytest.ExitCode.TESTS_FAILED
    assert len(notes["told"]) == 30
    failed = [name for name, said in notes["told"].items() if any(part[1] == "failed" for part in said)]
    assert failed == ["test_it[27]"]


def test_a_first_failure_ends_both(tmp_path):
    code, notes, _ = run(tmp_path / "it", MIXED.replace("range(40)", "range(4000)"), Shared(), options=["-x"])
    assert code == pytest.ExitCode.TESTS_FAILED
    assert len(notes["told"]) < 4000


def test_a_file_that_cannot_be_imported_is_told(tmp_path):
    code, notes, _ = run(tmp_path / "it", "import nothing_of_this_name", Shared())
    assert (code, notes["told"]) == (pytest.ExitCode.INTERRUPTED, {})


def test_two_who_take_from_a_row_get_each_once():
    row, taken = Row(5), []
    while (first := row.first()) is not None:
        taken += [first, row.last()]
    assert taken == [0, 4, 1, 3, 2, None]
    row = Row(3)
    row.leave()
    assert (row.first(), row.last()) == (None, None)
