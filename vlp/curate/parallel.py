"""One function over many shards: in order, on several processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from vlp.ground.types import RecipeError

Job = TypeVar("Job")
Result = TypeVar("Result")
AHEAD = 2  # tasks per process that wait, so that none idles and no table is held in memory


def map_in_order(work: Callable[[Job], Result], tasks: Iterable[Job], workers: int) -> Generator[Result, None, None]:
    """Yield `work(task)` in the order of the tasks; one worker runs in this process.

    Raises:
        RecipeError: Fewer than one worker, or one of them was killed.
    """
    if workers < 1:
        raise RecipeError(f"--workers {workers}: at least one process must do the work")
    if workers == 1:
        yield from map(work, tasks)
        return
    # A forked process need not import torch again. No other thread runs here, so a fork is safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with ProcessPoolExecutor(workers, context, _leave_with, (os.getpid(),)) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RecipeError(
                "one of the processes was killed, usually for want of memory; "
                "run the command again with fewer --workers (finished shards are kept)"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _leave_with(parent: int) -> None:
    """End this process when the one that started it is gone or interrupted; orphans would go on writing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def progress(total: int | None, unit: str) -> Any:
    """Return a bar on the error stream; silent where that is no terminal."""
    # The thread that watches bars would be alive while processes fork.
    tqdm.monitor_interval = 0
    return tqdm(total=total, unit=f" {unit}", unit_scale=True, disable=None, file=sys.stderr)


def num_shards(number: int) -> str:
    """Return a number of shards in words."""
    return f"{number:,} shard{'' if number == 1 else 's'}"
