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
NEW_FILES = {
    "vlp/objectives/distance.py": '''
"""A new term."""

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import Pairs, Stats


@terms.register("distance")
class DistanceTerm(Term):
    """Bring pairs together by their distance.

    Somebody 2026, section 3 (arXiv:2601.00001).

    Formula: mean_i |x_i - y_i|^power

    Args:
        power: Exponent of the distance.
    """

    def __init__(self, *, power: float = 2.0):
        super().__init__()
        self.power = power

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        return pairs.mean((2 - 2 * pairs.positive_cosines).clamp(min=0) ** (self.power / 2))
''',
    "recipes/vitb32_distance.yaml": """
# A recipe for the new term.
# Question: does it work?
# Run:      accelerate launch --config_file recipes/launch/8gpu.yaml -m vlp.train --config recipes/vitb32_distance.yaml
extends: vitb32_clip.yaml
name: vitb32_distance
objective: {distance: {weight: 0.1}}
""",
    "tests/objectives/test_distance.py": '''
"""A new term's test."""

NO_NEGATIVES = "each pair alone"
VARIANTS = [{"power": 4.0}]


def test_something():
    assert VARIANTS
''',
    "vlp/strategies/doing_nothing.py": '''
"""A new strategy."""

from vlp.strategies.base import Strategy, strategies


@strategies.register("doing_nothing")
class DoingNothing(Strategy):
    """Do nothing at all to a step.

    Args:
        how: Slowly or not.
    """

    def __init__(self, *, how: str = "slowly"):
        self.how = how
''',
    "vlp/evaluators/counting_texts.py": '''
"""A new evaluator."""

from vlp.evaluators.base import evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, Metric


@evaluators.register("counting_texts")
class CountingTexts:
    """Count the texts of a set, whatever the model.

    Args:
        most: Where counting ends.
    """

    def __init__(self, data: EvaluationSet, *, most: int = 10):
        self.texts: tuple[str, ...] = data.class_names[:most]

    def run(self, encoder: SharedEncoder) -> Evaluation:
        return Evaluation((Metric("texts", len(self.texts), len(self.texts)),))
''',
    "vlp/towers/square.py": '''
"""New towers."""

from vlp.towers.base import Fragment, image_towers, text_towers


@image_towers.register("square")
class Square:
    """An image tower that sees squares only.

    Args:
        side: Of the square, in pixels.
    """

    def __init__(self, *, side: int = 32):
        self.side = side

    def fragment(self) -> Fragment:
        return Fragment({"image_size": self.side})


@text_towers.register("square")
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
    "vlp/curate/rules/none_at_all.py": '''
"""A new rule."""

from vlp.curate.facts.facts import WORDS, Fact
from vlp.curate.facts.gather import FactTable
from vlp.curate.rules.base import Flags, Rule, rules


@rules.register("none_at_all")
class NoneAtAll(Rule):
    """Keep every sample there is.

    Args:
        sure: How sure it is.
    """

    facts: tuple[Fact, ...] = (WORDS,)

    def __init__(self, *, sure: bool = True):
        self.sure = sure

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Drop nothing."""
        return ~alive & alive

    def reason(self, table: FactTable, number: int) -> str:
        """Say nothing."""
        return ""
''',
    "vlp/curate/sources/empty_box.py": '''
"""A new source."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.rows import Rows, sources


@sources.register("empty_box")
class EmptyBox:
    """Nothing at all, out of a file that ends in `.box`."""

    rank: ClassVar[int] = 9
    caption_keys = {"txt": 1.0}

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Whether it is one."""
        return path.suffix == ".box"

    def __init__(self, path: Path, columns: Columns):
        self.path = path

    def units(self, size: int) -> Iterator[Rows]:
        """Yield nothing."""
        yield from ()
''',
}
"""The files by which somebody adds a term, a strategy, an evaluator, two towers, a policy, a rule and a source."""
LISTING = (
    *("tests/commands", "tests/test_readme.py", "tests/test_house.py", "tests/objectives/test_distance.py"),
    *("tests/objectives/test_twins.py::test_every_term_is_read_slowly_or_has_no_negatives", "tests/test_recipes.py"),
    *("tests/evaluators/test_tasks.py", "tests/curate/test_filter.py", "tests/benchmarks", "tests/step"),
    *("tests/objectives/test_contract.py", "tests/test_cli.py"),
)
CHOICE = (
    "distance or doing_nothing or counting_texts or square or unchanged or none_at_all or empty_box or describe "
    "or page or listed or registry or every_term or align or references or default_run or new_term or documentation"
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
    for name in ("distance", "doing_nothing", "counting_texts", "square", "unchanged", "none_at_all", "empty_box"):
        assert f"  {name} " in listed


def test_nothing_that_lists_parts_minds_a_new_one(copy):
    words = ("-q", "-x", "-p", "no:cacheprovider", *LISTING, "-k", CHOICE)
    outcome = run(copy, sys.executable, "-m", "pytest", *words)
    assert outcome.returncode == 0, outcome.stdout[-3000:]
    assert " passed" in outcome.stdout
