"""Compute the golden losses anew, because a change of numerics is wanted: python -m tests.golden

Say so under "Numbers that move" in CHANGELOG.md, with what moved and why.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import tests.conftest  # noqa: F401  (CPU, one thread, no network: as under test)
from tests.golden import KEPT, NAMES, compute, record

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        numbers = {name: compute(name, Path(folder)) for name in NAMES}
    KEPT.write_text(json.dumps(record(numbers), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {KEPT}")
