"""A part of every kind is added to a copy of the project by new files alone: what lists the parts must not mind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    "vlp",
    "tests",
    "recipes",
    "docs",
    "eval",
    "data",
    "benchmarks",
    "README.md",
    "CHANGELOG.md",
    "pyproject.toml",
)
SNIPPETS = ROOT / "docs" / "snippets"
"""The files by which pages add a term, a strategy, an evaluator, a tower, a source and a rule, as they stand there."""
SHOWN = {str(path.relative_to(SNIPPETS)): path.read_text() for path in sorted(SNIPPETS.rglob("*.*")) if path.is_file()}
NEW_FILES = {
    **SHOWN,
    "vlp/towers/squares_only.py": '''
"""A new text tower."""

from vlp.towers.base import Fragment, text_towers


@text_towers.register("squares_only")
class SquareText:
    """A text tower that reads about squares only."""

    def fragment(self) -> Fragment:
        return Fragment({})
''',
    "vlp/data/pixels/unchanged.py": '''
"""A new policy."""

from torch import nn

from vlp.data.pixels.policies import Policy, policies


@policies.register("unchanged")
class Unchanged(Policy):
    """Leave the pixels of an image alone."""

    def transform(self) -> nn.Module:
        return nn.Identity()
''',
}
"""The same, and the kinds of parts that no page is about."""
NAMES = (
    *("distance", "margin", "held_scale", "calibration", "resnet", "squares_only", "unchanged", "capitals", "zip"),
    "emoji24-calibration",
)
LISTING = (
    *("tests/commands", "tests/test_readme.py", "tests/test_house.py"),
    *("tests/objectives/test_twins.py::test_every_term_is_read_slowly_or_has_no_negatives", "tests/test_recipes.py"),
    *("tests/evaluators/test_tasks.py", "tests/curate/test_filter.py", "tests/benchmarks", "tests/step"),
    *("tests/objectives/test_contract.py", "tests/test_cli.py"),
)
CHOICE = (
    f"{' or '.join(NAMES)} or describe or page or listed or registry or every_term or align or references "
    "or default_run or new_term or documentation"
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "reports", "runs"))
        else:
            shutil.copy(ROOT / name, folder / name)
    for name, text in NEW_FILES.items():
        assert not (folder / name).exists()
        (folder / name).write_text(text.lstrip())
    return folder


def run(copy, *words):
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    return subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)


def test_new_parts_are_found_and_described(copy):
    listed = run(copy, sys.executable, "-m", "vlp.cli", "describe").stdout
    for name in NAMES[:-1]:
        assert f"  {name} " in listed


def test_the_parts_that_the_pages_show_do_what_their_tests_say(copy):
    shown = [name for name in SHOWN if name.startswith("tests/")]
    assert len(shown) >= 7
    outcome = run(copy, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *shown)
    assert outcome.returncode == 0, outcome.stdout[-3000:]


@pytest.mark.long
def test_nothing_that_lists_parts_minds_a_new_one(copy):
    words = ("-q", "-x", "-p", "no:cacheprovider", *LISTING, "-k", CHOICE)
    outcome = run(copy, sys.executable, "-m", "pytest", *words)
    assert outcome.returncode == 0, outcome.stdout[-3000:]
    assert " passed" in outcome.stdout
