"""The list of a folder's files with their checksums, which has a checksum of itself: no bit changes unnoticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
CHECKSUM = "checksum"


def lay_out_manifest(values: Mapping[str, Any]) -> str:
    """Return the text of a manifest."""
    return _lay_out({**values, CHECKSUM: _sum(values)})


def read_manifest(path: Path) -> dict[str, Any]:
    """Return what a manifest says.

    Raises:
        OSError: It is not there.
        ValueError: It is not, to the last bit, what `lay_out_manifest` made.
        KeyError, TypeError, AttributeError, RecursionError: Not even close.
    """
    content = path.read_bytes()
    values: dict[str, Any] = json.loads(content)
    told = values.pop(CHECKSUM)
    if told != _sum(values):
        raise ValueError("its checksum differs")
    if content != lay_out_manifest(values).encode():
        raise ValueError("it was written by somebody else")
    return values


def _sum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_lay_out(values).encode()).hexdigest()


def _lay_out(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
