"""Do something in a forked process that cannot find its way back into the test run."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def forked(action: Callable[[], bool | None]) -> bool:
    """Return whether `action` did not fail, and did not return False, in a forked process."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    code = 1
    try:
        code = int(action() is False)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
