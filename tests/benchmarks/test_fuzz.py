"""Every parser of strangers' bytes refuses in the project's words, or takes its input; benchmarks/fuzz.py goes on."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from benchmarks.fuzz import KINDS, Edit, change
from benchmarks.fuzz_targets import INTERESTING, TARGETS, Target, WrongError, try_one

EDITS = st.lists(
    st.builds(
        Edit,
        st.sampled_from(KINDS),
        st.floats(0, 1),
        st.integers(1, 1024),
        st.one_of(st.sampled_from(INTERESTING), st.binary(min_size=1, max_size=8)),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_sound_inputs_are_taken(name, tmp_path):
    for number, content in enumerate(TARGETS[name].seeds()):
        (tmp_path / str(number)).mkdir()
        refusable = name in ("server", "task", "recipe")  # of a busy server; what they name need not be there
        assert try_one(TARGETS[name], tmp_path / str(number), content) or refusable


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(pick=st.integers(0, 100), edits=EDITS)
@example(pick=0, edits=[Edit("cut", 0.0, 1, b"")])
@example(pick=0, edits=[Edit("cut", 0.5, 1, b"")])
@example(pick=0, edits=[Edit("set", 0.0, 1, b"\xff\xfe\x00")])
def test_changed_inputs_are_taken_or_refused(name, pick, edits):
    seeds = TARGETS[name].seeds()
    with TemporaryDirectory() as folder:
        try_one(TARGETS[name], Path(folder), change(seeds[pick % len(seeds)], edits))


def test_edits_change_bytes():
    assert change(b"abcd", [Edit("flip", 0.0, 8, b"")]) == b"`bcd"
    assert change(b"abcd", [Edit("set", 0.5, 1, b"XY")]) == b"abXY"
    assert change(b"abcd", [Edit("insert", 1.0, 1, b"e")]) == b"abcde"
    assert change(b"abcd", [Edit("drop", 0.2, 2, b"")]) == b"ad"
    assert change(b"abcd", [Edit("double", 0.0, 2, b"")]) == b"ababcd"
    assert change(b"abcd", [Edit("move", 0.6, 1, b"")]) == b"dabc"
    assert change(b"abcd", [Edit("cut", 0.4, 1, b"")]) == b"ab"
    assert change(b"", [Edit(kind, 0.5, 3, b"x") for kind in KINDS]) in (b"xx", b"x", b"")


def test_findings_are_told_kept_and_reported(tmp_path, monkeypatch):
    """An exception, a hang and a death, each in a process of its own."""

    def feed(_, content):
        if content[:1] == b"a":
            raise KeyError("lost")
        raise WrongError("other values")

    monkeypatch.setitem(TARGETS, "broken", Target(lambda: [b"abc"], feed))
    monkeypatch.setitem(TARGETS, "dying", Target(lambda: [b"abc"], lambda *_: fuzz.os._exit(9)))
    monkeypatch.setattr(fuzz, "TURN", 0.2)
    with pytest.raises(SystemExit) as ended:
        fuzz.main(
            ["--minutes", "0.005", "--targets", "broken", "dying", "--work", str(tmp_path / "w"), "--to", str(tmp_path)]
        )
    assert ended.value.code == 1
    (page,) = tmp_path.glob("fuzz_*.md")
    assert "KeyError: 'lost'" in page.read_text()
    assert "the process ended with 9" in page.read_text()
    found = json.loads(page.with_suffix(".json").read_text())["found"]
    assert {turn["target"] for turn in found} == {"broken", "dying"}
    dead = {file for turn in found if turn["target"] == "dying" for _, file in turn["findings"]}
    assert dead
    assert all(Path(file).is_file() for file in dead)
    assert not list((tmp_path / "w").glob("*.last"))
    kept = next((tmp_path / "w").glob("broken_*.bin"))
    with pytest.raises((KeyError, WrongError)):
        fuzz.main(["--again", str(kept), "broken"])


def test_a_parser_that_hangs_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "LIMIT", 1)
    monkeypatch.setattr(fuzz, "TURN", 0.1)
    monkeypatch.setitem(TARGETS, "slow", Target(lambda: [b"abc"], lambda *_: fuzz.time.sleep(5)))
    turn = fuzz.take_turn("slow", "0", tmp_path)
    assert "_TooLongError" in turn.findings[0][0]
