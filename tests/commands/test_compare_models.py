"""`vlp compare`: what is printed in which form, and how it ends."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.evaluators.comparison.records import write_scores
from vlp.cli import build_parser, main


@pytest.fixture
def folders(tmp_path):
    """Two models and two seeds of a third."""
    values = np.random.default_rng(0).random(300)
    shares = {"a": 0.5, "b": 0.6, "c1": 0.61, "c2": 0.62}
    return {name: str(write_scores(tmp_path / name, "t", values < share)) for name, share in shares.items()}


def run(*words):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *words])
    return stopped.value.code


def test_the_table_goes_to_the_terminal(folders, capsys):
    assert run(folders["a"], folders["b"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"A = {folders['a']}\nB = {folders['b']}\n")
    assert "B is better" in printed


def test_seeds_are_joined_by_commas(folders, capsys):
    assert run(folders["a"], f"{folders['c1']},{folders['c2']}", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["models"]["B"]["folders"] == [folders["c1"], folders["c2"]]


@pytest.mark.parametrize(("flag", "start"), [("--markdown", "| task |"), ("--csv", "task,"), ("--json", "{")])
def test_a_form_is_printed(folders, capsys, flag, start):
    assert run(folders["a"], folders["b"], "--tasks", "t", flag) == 0
    assert capsys.readouterr().out.startswith(start)


def test_a_task_that_is_refused_ends_with_one(folders, tmp_path, capsys):
    write_scores(tmp_path / "a", "u", [0, 1])
    write_scores(tmp_path / "b", "u", [1, 1], data_sha256="other")
    assert run(folders["a"], folders["b"]) == 1
    assert "u: NOT COMPARED, scored on other data" in capsys.readouterr().out


def test_forms_exclude_each_other():
    with pytest.raises(SystemExit):
        build_parser().parse_args(["compare", "a", "b", "--csv", "--json"])
