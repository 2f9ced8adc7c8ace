"""The list of slow tests names tests, and a renewal keeps what it did not time."""

from __future__ import annotations

import ast
from types import SimpleNamespace

import pytest

from tests import conftest, slow
from tests.house import ROOT


def functions_in(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_what_is_listed_is_a_test():
    listed = {tuple(slow.function_of(name).split("::")) for name in slow.listed()}
    known = {(file, name) for file in {file for file, _ in listed} for name in functions_in(file)}
    assert listed - known == set(), "take them out of tests/slow.txt"


def test_a_renewal_keeps_what_it_did_not_time():
    known = {"a.py::test_kept": 9.0, "a.py::test_faster_now": 8.0}
    timed = {"a.py::test_faster_now": 0.2, "a.py::test_one[x]": 1.6, "a.py::test_one[y]": 0.1}
    timed |= {f"a.py::test_many[{number}]": 1.0 for number in range(16)} | {"a.py::test_many[a b]": 2.5}
    lines = slow.lines_of(timed, known).splitlines()
    assert [line.split() for line in lines] == [
        ["18.5", "a.py::test_many"],
        ["9.0", "a.py::test_kept"],
        ["2.5", "a.py::test_many[a", "b]"],
        ["1.7", "a.py::test_one"],
        ["1.6", "a.py::test_one[x]"],
    ]


def test_what_is_listed_is_marked_unless_it_is_a_claim(request):
    """Of the items of this very run."""
    listed = slow.listed()
    for item in request.session.items:
        is_listed = slow.function_of(item.nodeid) in listed
        is_claim = item.get_closest_marker("claim") is not None
        assert (item.get_closest_marker("slow") is not None) == (is_listed and not is_claim)


@pytest.fixture
def collected(monkeypatch):
    """Three tests: one that takes long, one of many quick cases, one that nobody lists."""
    monkeypatch.setattr(slow, "listed", lambda: {"a.py::test_long": 9.0, "a.py::test_many": 20.0})
    names = ["a.py::test_long", *(f"a.py::test_many[{number}]" for number in range(20)), "a.py::test_quick"]
    return [SimpleNamespace(nodeid=name, get_closest_marker=lambda _: None) for name in names]


def asked_for(items, wanted):
    """Return what is left of the tests that a keyword chose, and what was told to be left out."""
    told = []
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: told.extend(items)))
    answer = slow.QuickAnswer()
    moment = answer.pytest_collection_modifyitems(config, items)
    next(moment)
    items[:] = [item for item in items if item.nodeid.startswith(wanted)]
    assert next(moment, None) is None
    said = []
    answer.pytest_terminal_summary(SimpleNamespace(write_line=said.append))
    return items, told, "".join(said)


def test_what_processes_left_out_is_said_by_the_one_that_gives_out_tests(collected):
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: None), workeroutput={})
    process, giving, said = slow.QuickAnswer(), slow.QuickAnswer(), []
    list(process.pytest_collection_modifyitems(config, collected))
    process.pytest_sessionfinish(SimpleNamespace(config=config))
    giving.pytest_testnodedown(SimpleNamespace())  # of one that died
    giving.pytest_testnodedown(SimpleNamespace(workeroutput=config.workeroutput))
    giving.pytest_terminal_summary(SimpleNamespace(write_line=said.append))
    assert "left out: 1 of over 1 s" in said[0]


def test_an_answer_about_one_part_leaves_out_what_takes_long(collected):
    left, told, said = asked_for(collected, "a.py")
    assert len(left) == 21
    assert [item.nodeid for item in told] == ["a.py::test_long"]
    assert "left out: 1 of over 1 s" in said


def test_what_was_asked_for_alone_runs_however_long_it_takes(collected):
    left, told, said = asked_for(collected, "a.py::test_long")
    assert ([item.nodeid for item in left], told, said) == (["a.py::test_long"], [], "")


@pytest.mark.parametrize(
    ("options", "is_shared"),
    [
        (["-k", "sigmoid"], True),
        (["-k", "sigmoid", "-n", "0"], False),
        (["-k", "sigmoid", "-m", "slow"], False),
        (["-k", "sigmoid", "--pdb"], False),
        (["-k", "sigmoid", "-s"], False),
        (["-k", "sigmoid", "tests/pairs"], False),
        ([], False),
    ],
)
def test_one_part_of_all_is_looked_for_on_two_cores(pytestconfig, monkeypatch, options, is_shared):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert conftest.wants_one_part(pytestconfig.__class__.fromdictargs({}, options)) is is_shared
