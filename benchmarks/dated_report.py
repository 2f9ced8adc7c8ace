"""A report as a page and as JSON, with the command, commit, machine and versions that numbers need beside them."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import listed, slug
from vlp.ground.provenance import commit, machine, versions


def command_line(name: str, arguments: Sequence[str] | None) -> str:
    """Return what a benchmark was called with, as a shell reads it.

    Args:
        arguments: Of its `main`; None are those of the process.
    """
    return shlex.join(["python", "-m", f"benchmarks.{name}", *(sys.argv[1:] if arguments is None else arguments)])


def write_page(folder: Path, theme: str, title: str, command: str, sections: Sequence[str], found: Any) -> Path:
    """Write `theme_hardware_date.md` and `.json`; return the page.

    Args:
        sections: Of the page, between its head and the versions.
        found: All that was found, as plain values.
    """
    date = datetime.date.today().isoformat()
    about = {"command": command, "commit": commit(), "date": date, "machine": machine(), "versions": versions()}
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{theme}_{slug(machine())}_{date}.md"
    page.with_suffix(".json").write_text(json.dumps({**about, "found": found}) + "\n", encoding="utf-8")
    head = [f"# {title} on {machine()}, {date}", f"Commit `{commit()}`. Again: `{command}`"]
    page.write_text("\n\n".join([*head, *sections, "## Versions", listed(versions())]) + "\n", encoding="utf-8")
    return page
