"""A phase whose cases crash, hang, raise and are wrong, with good ones between them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from benchmarks.gpu.cases import Case, Finding, Setting

LEFT_BEHIND = "left_behind"


def cases(setting: Setting) -> Iterator[Case]:
    """Yield all ways to fail."""
    good = Finding("fine")
    yield Case("first", lambda: good)
    yield Case("crashes", crash)
    yield Case("behind the crash", lambda: good)
    yield Case("hangs", lambda: hang(setting), seconds=0.5)
    yield Case("behind the hang", lambda: good)
    yield Case("raises", lambda: Finding(str(1 / 0)))
    yield Case("is wrong", lambda: Finding("2", problems=("1 was wanted",)))
    yield Case("is slow", lambda: Finding("2 s", missed=True))
    yield Case("last", lambda: Finding(str(os.getpid())), alone=True)


def crash() -> Finding:
    """End as by a fault of the memory."""
    print("about to crash", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return Finding("not reached")


def hang(setting: Setting) -> Finding:
    """Never come back, with a child that would hold the pipe open."""
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    (setting.scratch / LEFT_BEHIND).write_text(str(child.pid))
    threading.Event().wait()
    return Finding("not reached")
