"""The wheel holds the verbs and the nouns, and works away from the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True,
        capture_output=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_ships_data_recipes_and_tasks(unpacked):
    shipped = unpacked / "vlp" / "shipped"
    assert sorted(path.name for path in (shipped / "data" / "embedded" / "train").glob("*.tar"))
    assert (shipped / "data" / "embedded" / "LICENSES.md").is_file()
    for noun in ("recipes", "data", "eval"):
        ours = {path.relative_to(ROOT / noun) for path in (ROOT / noun).rglob("*.yaml")}
        assert ours and ours == {path.relative_to(shipped / noun) for path in (shipped / noun).rglob("*.yaml")}
    assert {path.suffix for path in (unpacked / "vlp" / "html").iterdir()} >= {".py", ".css", ".js"}


def test_an_installed_package_finds_what_it_ships(unpacked, tmp_path):
    script = (
        "import vlp\n"
        "from vlp.data.shards.cards import load_card\n"
        "from vlp.evaluators.base import load_task\n"
        "from vlp.recipe.compose import load_recipe\n"
        "recipe = load_recipe('quickstart')\n"
        "card = load_card('embedded')\n"
        "assert len(card.paths()) >= 4\n"
        "from vlp.evaluators.dataset import open_set\n"
        "task = load_task('emoji24')\n"
        "print(vlp.__file__, len(open_set(task.data)))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(unpacked)}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    file, count = told.stdout.split()
    assert Path(file).is_relative_to(unpacked)
    assert int(count) == 353
