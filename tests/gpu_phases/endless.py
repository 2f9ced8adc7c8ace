"""A phase that hangs before it has named a case, and one that cannot be imported: see `broken`."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from benchmarks.gpu.cases import Case, Setting


def cases(setting: Setting) -> Iterator[Case]:
    """Never come back."""
    threading.Event().wait()
    yield from ()
