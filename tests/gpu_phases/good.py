"""A phase in which nothing goes wrong."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.cases import Case, Finding, Setting


def cases(setting: Setting) -> Iterator[Case]:
    """Yield a case that passes, and one that this machine cannot run."""
    yield Case("good", lambda: Finding(setting.device, {"seven": 7}))
    yield Case("elsewhere", lambda: Finding("never"), needs="another machine")
