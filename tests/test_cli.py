"""The command line: where settings may stand, and flags that are spelled out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vlp.cli import build_parser
from vlp.recipe.arguments import parse


@pytest.mark.parametrize(
    "words",
    [
        "train X a=1 b.c=2 --resume --allow-changes",
        "train X --resume a=1 b.c=2 --allow-changes",
        "train X --resume --allow-changes a=1 b.c=2",
        "train X a=1 --resume b.c=2 --allow-changes",
        "train --resume X a=1 --allow-changes b.c=2",
        "train --resume --allow-changes X a=1 b.c=2",
    ],
)
def test_settings_may_stand_before_between_and_behind_flags(words):
    parsed = parse(build_parser(), words.split())
    assert (parsed.config, parsed.overrides) == ("X", ["a=1", "b.c=2"])
    assert parsed.resume and parsed.allow_changes


def test_settings_of_config_too():
    parsed = parse(build_parser(), ["config", "X", "--sources", "a=1"])
    assert (parsed.overrides, parsed.sources) == (["a=1"], True)


@pytest.mark.parametrize(
    "words",
    [
        "train X --res",
        "train X --allow",
        "train X a=1 --resume --nonsense b=2",
        "eval RUN --task emoji24",
        "export RUN --t folder",
        "data verify CARD --work 2",
        "report RUN a=1",
        "describe clip a=1",
        "train",
    ],
)
def test_what_no_command_knows_is_refused(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(build_parser(), words.split())
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_the_end_of_a_command_looks_for_no_garbage():
    """What is frozen, the last collection leaves alone."""
    last = "import atexit, gc; atexit.register(lambda: print('frozen', gc.get_freeze_count() > 1000))"
    command = f"{last}; from vlp.cli import main; main(['list', 'recipes'])"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "frozen True"


@pytest.mark.parametrize("number", ["nan", "inf", "0", "-3", "many", "1e400"])
@pytest.mark.parametrize(
    "words",
    [
        ("plan", "quickstart", "--tokens"),
        ("plan", "quickstart", "--pairs"),
        ("plan", "quickstart", "--price"),
        ("data", "bench", "embedded", "--seconds"),
        ("data", "bench", "embedded", "--needed"),
    ],
)
def test_what_is_no_number_above_zero_is_refused_by_the_flag(words, number, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(build_parser(), [*words[:-1], f"{words[-1]}={number}"])
    assert ended.value.code == 2
    assert f"argument {words[-1]}: '{number}' is no number above 0" in capsys.readouterr().err
