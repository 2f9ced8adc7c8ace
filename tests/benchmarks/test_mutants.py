"""The mutation tool: it tells what is noticed from what is not, and leaves the project as it is."""

from __future__ import annotations

import json
import math
import re

import pytest

from benchmarks.mutant_operators import mutants_of
from benchmarks.mutant_report import HUNG, KILLED, SURVIVED, UNCLEAR, UNEXPLAINED, reasons, report_page
from benchmarks.mutant_tests import ROOMS, ROWS, calls_of, files_of
from benchmarks.mutants import ROOT, Kept, draw, mutants_in, run_all

TOY = '''"""A toy."""

def bounded(value: float, *, most: int = 3) -> float:
    """Cut at `most`, which is never below 0."""
    return min(value, max(most, 0))


def countdown(steps):
    while steps > 0:
        steps -= 1
    return steps
'''
TESTS = """
from vlp.toy import bounded, countdown

def test_large_values_are_cut():
    assert bounded(5) == 3
    assert bounded(2) == 2

def test_countdown_ends():
    assert countdown(2) == 0
"""

BOUND = "bounded: return min(value, max(most, 0)) -> return "
NOTICED, UNNOTICED = BOUND + "max(value, max(most, 0))", BOUND + "min(value, max(most, 1))"
ENDLESS = "countdown: steps -= 1 -> pass"


@pytest.fixture
def toy(tmp_path):
    """A project of one file, whose tests never see a negative bound."""
    for path, text in {"vlp/__init__.py": "", "vlp/toy.py": TOY, "tests/test_toy.py": TESTS}.items():
        (tmp_path / "project" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / path).write_text(text)
    return tmp_path / "project"


def chosen(toy, *names):
    every = {mutant.name: mutant for mutant in mutants_in("vlp/toy.py", toy)}
    return [every[name] for name in names]


def files(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
@pytest.mark.processes
def test_the_noticed_the_unnoticed_and_the_endless_are_told_apart(tmp_path, toy):
    before = files(toy)
    kept = Kept(tmp_path / "results.jsonl", toy)
    run_all(chosen(toy, NOTICED, UNNOTICED, ENDLESS), kept, num_jobs=2, patience=8.0, warm=())
    assert {name: result.outcome for (_, name), result in kept.results.items()} == {
        NOTICED: KILLED,
        UNNOTICED: SURVIVED,
        ENDLESS: HUNG,
    }
    assert kept.results["vlp/toy.py", NOTICED].noticed_by.endswith("::test_large_values_are_cut")
    assert files(toy) == before, "the project is as it was"


@pytest.mark.long
@pytest.mark.processes
def test_what_was_found_is_not_run_again_until_it_may_differ(tmp_path, toy):
    path = tmp_path / "results.jsonl"
    killed, survivor = mutants = chosen(toy, NOTICED, UNNOTICED)
    run_all(mutants, Kept(path, toy), num_jobs=1, warm=())
    assert [Kept(path, toy).find(mutant).outcome for mutant in mutants] == [KILLED, SURVIVED]
    (toy / "tests/test_toy.py").write_text(TESTS + "    assert bounded(2, most=-1) == 0\n")
    assert Kept(path, toy).find(killed).outcome == KILLED
    assert Kept(path, toy).find(survivor) is None
    run_all([survivor], Kept(path, toy), num_jobs=1, warm=())
    assert Kept(path, toy).find(survivor).outcome == KILLED
    (toy / "vlp/toy.py").write_text(TOY.replace("most: int = 3", "most: int = 4"))
    assert Kept(path, toy).find(survivor) is None


@pytest.mark.long
@pytest.mark.processes
def test_a_test_that_fails_without_a_fault_has_noticed_nothing(tmp_path, toy):
    (toy / "tests/test_toy.py").write_text(TESTS + "    assert bounded(1) == 2\n")
    kept = Kept(tmp_path / "results.jsonl", toy)
    killed, other = mutants = chosen(toy, NOTICED, UNNOTICED)
    run_all(mutants, kept, num_jobs=1, warm=())
    assert [kept.find(mutant).outcome for mutant in mutants] == [KILLED, UNCLEAR]
    assert kept.settles(killed) and not kept.settles(other)


def test_time_that_is_up_starts_nothing(tmp_path, toy):
    kept = Kept(tmp_path / "results.jsonl", toy)
    run_all(mutants_in("vlp/toy.py", toy), kept, num_jobs=1, seconds=-math.inf, warm=())
    assert not kept.results


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = b <= c < d", {"a = b < c < d", "a = b <= c <= d"}),
        ("a = (b + c) * d", {"a = (b - c) * d", "a = (b + c) / d"}),
        ("a **= 2", {"a *= 2", "pass", "a **= 3", "a **= 1"}),
        ("a = b and not c", {"a = b or not c", "a = b and c"}),
        ("a = (b - c).clamp(min=0)", {"a = (b + c).clamp(min=0)", "a = (b - c)", "a = (b - c).clamp(min=1)"}),
        ("def f(*, a: Literal[1] = True): ...", {"def f(*, a: Literal[1] = False): ..."}),
        ("if a():\n    raise E(1 + 1)", {"if (not (a())):\n    raise E(1 + 1)", "if a():\n    pass"}),
        ("self.a = b", {"pass"}),
        ("import a\nassert 1 < 2\nx: List[1] = f'{3}'", set()),
    ],
)
def test_faults_are_these(source, expected):
    assert {mutant.apply(source) for mutant in mutants_of("a.py", source)} == expected


def test_every_fault_of_the_package_can_be_read_and_has_a_name_of_its_own():
    path = "vlp/step/optimizer.py"
    source = (ROOT / path).read_text()
    mutants = mutants_of(path, source)
    assert len(mutants) > 20
    assert len({mutant.name for mutant in mutants}) == len({mutant.apply(source) for mutant in mutants}) == len(mutants)
    for mutant in mutants:
        compile(mutant.apply(source), path, "exec")


def test_a_larger_draw_holds_the_smaller_one():
    files = files_of("checkpoints", ROOT)
    small, large = (draw(files, limit, 0, ROOT) for limit in (5, 20))
    assert len(small) == 5
    assert set(small) < set(large)
    assert set(draw(files, 20, 1, ROOT)) != set(large)


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_of_a_room_has_tests_that_exist(room):
    files = files_of(room, ROOT)
    assert files
    for path in files:
        calls = calls_of(path, ROOT)
        assert calls, path
        for name in re.findall(r"\btests/[\w/.]+", " ".join(calls)):
            assert (ROOT / name).exists(), f"{path}: {name}"


def test_every_row_is_about_a_file_that_exists():
    for pattern in ROWS:
        assert list(ROOT.glob(pattern)), pattern


def test_every_explained_survivor_is_still_possible():
    for path, name in reasons():
        assert name in {mutant.name for mutant in mutants_in(path, ROOT)}, f"benchmarks/mutants.yaml: {path}: {name}"


def test_the_report_explains_survivors_once_and_misses_none(tmp_path, toy):
    kept = Kept(tmp_path / "results.jsonl", toy)
    fields = {"operator": "", "noticed_by": "", "source": "", "tests": ""}
    lines = [
        {"path": "vlp/toy.py", "name": name, "outcome": outcome} | fields
        for name, outcome in {"a | b": SURVIVED, "c": SURVIVED, "d": KILLED, "e": HUNG}.items()
    ]
    kept.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = list(Kept(kept.path, toy).results.values())
    about = {
        "machine": "m",
        "date": "d",
        "commit": "c",
        "command": "x",
        "possible": {"toy": 9},
        "drawn": {"toy": 5},
        "versions": {},
    }
    page = report_page(about, {"toy": results}, {("vlp/toy.py", "c"): "it is the same number"})
    assert "| toy | 9 | 5 | 4 | 1 | 1 | 0 | 2 | 1 | 75.0 % |" in page
    assert f"| `vlp/toy.py` | `a \\| b` | {UNEXPLAINED} |" in page
    assert "| `vlp/toy.py` | `c` | it is the same number |" in page
