"""Phase F: the tests that need a GPU, which all other runs of the tests skip."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.gpu.waits import ROOT

MARKED = re.compile(r"mark\.gpu\b")
FIRST = "tests/pairs/test_triton.py"


def cases(setting: Setting) -> Iterator[Case]:
    """Yield every file with marked tests, the kernels first."""
    for path in marked_files():
        name = str(path.relative_to(ROOT))
        yield Case(f"{name} -m gpu", lambda name=name: run(setting, name), "all pass, none is skipped", seconds=45)


def marked_files() -> list[Path]:
    """Return the files of tests that need a GPU.

    Raises:
        FileNotFoundError: There are none.
    """
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if MARKED.search(path.read_text(encoding="utf-8"))]
    if not found:
        raise FileNotFoundError(f"no test under {ROOT / 'tests'} is marked gpu")
    return sorted(found, key=lambda path: (path != ROOT / FIRST, path))


def run(setting: Setting, name: str) -> Finding:
    """Run the marked tests of a file in a process of their own; on the CPU all of them must skip themselves."""
    record = setting.scratch / f"{name.replace('/', '_')}.xml"
    command = [sys.executable, "-m", "pytest", name, "-m", "gpu", "-q", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--junitxml={record}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout, file=sys.stderr)
    if not record.exists():
        return Finding("pytest did not run", problems=(f"exit code {done.returncode}", *done.stdout.splitlines()[-8:]))
    tests = ElementTree.parse(record).getroot().iter("testcase")
    outcomes = [(test.get("name", ""), next((part for part in test if part.tag in _WORDS), None)) for test in tests]
    by_word = {word: [name for name, part in outcomes if part is not None and part.tag == word] for word in _WORDS}
    passed = [name for name, part in outcomes if part is None]
    problems = [f"{word}: {name}" for word in ("failure", "error") for name in by_word[word]]
    skipped = [f"skipped: {name}: {part.get('message', '')}" for name, part in outcomes if _is_skip(part)]
    if not outcomes:
        problems.append("no test was found")
    shown = f"{len(passed)} passed, {len(problems)} failed, {len(skipped)} skipped"
    numbers = {"passed": passed, "skipped": by_word["skipped"], "failed": problems}
    on_cpu = setting.device == "cpu" and not passed
    missed = not on_cpu and bool(skipped)
    return Finding(shown, numbers, None, tuple(problems), missed, on_cpu, () if on_cpu else tuple(skipped))


_WORDS = ("failure", "error", "skipped")


def _is_skip(part: ElementTree.Element | None) -> bool:
    return part is not None and part.tag == "skipped"
