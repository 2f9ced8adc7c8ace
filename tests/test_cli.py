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
