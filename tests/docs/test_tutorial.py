"""The tutorial runs, as it stands: its commands, its recipe, its Python, and what it says that they print.

Only the training is shorter than the reader's.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import pytest

from vlp.cli import main
from vlp.recipe.compose import load_recipe

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^( *)```(\w+)\n(.*?)^ *```", PAGE, flags=re.MULTILINE | re.DOTALL)
SHORTER = ("{samples: 12_800}", "{samples: 640, batch_size: 32}")


@contextmanager
def pressing_ctrl_c(metrics: Path) -> Iterator[None]:
    """Send SIGINT to this process once a run has logged a line."""

    def press() -> None:
        while not left.is_set():
            if metrics.is_file() and "\n" in metrics.read_text():
                os.kill(os.getpid(), signal.SIGINT)
                return
            sleep(0.05)

    left, thread = threading.Event(), threading.Thread(target=press)
    before = signal.signal(signal.SIGINT, lambda *_: None)  # one that comes too late must not end the tests
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


def run_line(line: str) -> None:
    """Run one command as a reader does; `vlp` in this process, whose imports take longer than most commands."""
    words = shlex.split(line, comments=True)
    if words[0] != "vlp":
        subprocess.run(words, check=True)
    elif "Ctrl-C" in line:
        with pressing_ctrl_c(Path("runs/photos/metrics.jsonl")), pytest.raises(SystemExit, match="75"):
            main(words[1:])
    else:
        try:
            main(words[1:])
        except SystemExit as ended:
            assert not ended.code, (line, ended.code)


@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").symlink_to(ROOT / "data")
    known: dict[str, object] = {}
    told, seen = "", set()
    for indent, language, block in BLOCKS:
        seen.add(language)
        if language == "bash":
            for line in block.splitlines():
                run_line(line)
            told = capsys.readouterr().out
        elif language == "text":
            assert all(line in told for line in block.splitlines()), told
        elif language == "yaml" and not indent:
            assert SHORTER[0] in block
            Path("photos.yaml").write_text(block.replace(*SHORTER))
        elif language == "python":
            exec(block, known)
            told = capsys.readouterr().out
            assert told
    assert seen == {"bash", "text", "yaml", "python"}
    assert len(list(Path("runs/photos/checkpoints").iterdir())) >= 1
    assert "R@5" in told and len(list(known["search"]("a tower", 3))) == 3
    whole = [line for line in Path("runs/photos/metrics.jsonl").read_text().splitlines() if '"step": 20,' in line]
    assert whole, "the resumed run went to its end"


def test_the_recipe_for_fine_tuning_is_one(tmp_path):
    """It cannot be trained here: its weights come from the network."""
    (recipe,) = (block for indent, language, block in BLOCKS if language == "yaml" and indent)
    path = tmp_path / "fine.yaml"
    path.write_text(re.sub(r"^  ", "", recipe, flags=re.MULTILINE))
    loaded = load_recipe(str(path))
    assert list(loaded.data.train) == ["mine"]
    assert loaded.schedule.warmup_steps < 20
