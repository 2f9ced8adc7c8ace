"""Run a function in several real gloo processes.

They are copies of a copy of the run of tests, taken when all tests have been collected: what those import is there
already, and no threads are, which copies would lack.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import Empty
from typing import Any

import torch
import torch.distributed as torch_dist

from benchmarks.ports import free_port

_copy: Connection | None = None


def keep_a_copy() -> None:
    """Let a copy of this process, as it is now, start what `run_processes` asks for, until this one ends."""
    global _copy
    here, there = multiprocessing.Pipe()
    if os.fork():
        there.close()
        _copy = here
        return
    here.close()
    try:
        while True:
            there.send(_answers("fork", *there.recv()))
    finally:  # the other end is closed
        os._exit(0)


def run_processes(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 400, fresh: bool = False
) -> list[Any]:
    """Return `function(rank, world_size, *args)` of every process, in rank order.

    Args:
        function: A module-level function; its result must be picklable.
        fresh: Start from nothing, for what must be set before some module is imported.

    Raises:
        RuntimeError: A process failed; carries its traceback.
        TimeoutError: One has not answered in time.
    """
    asked = (pickle.dumps((function, args)), world_size, timeout, dict(os.environ))
    if fresh or _copy is None or torch.cuda.is_available():  # a device is of no use to copies
        answers = _answers("spawn", *asked)
    else:
        _copy.send(asked)
        answers = _copy.recv()
    if len(answers) < world_size:
        raise TimeoutError(f"{len(answers)} of {world_size} processes answered within {timeout} s")
    failures = [failure for _, _, failure in answers if failure]
    if failures:
        raise RuntimeError(failures[0])
    return [pickle.loads(result) for _, result, _ in sorted(answers, key=lambda answer: answer[0])]


def _answers(
    method: str, asked: bytes, world_size: int, timeout: float, environment: dict[str, str]
) -> list[tuple[int, bytes, str]]:
    """Return what the processes answer in time: rank, the pickled result, and what failed."""
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size)}
    processes = [
        context.Process(target=_run, args=(asked, rank, world_size, queue, environment)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    answers: list[tuple[int, bytes, str]] = []
    try:
        answers.extend(queue.get(timeout=timeout) for _ in processes)
    except Empty:
        pass  # those that have answered are told
    finally:
        for process in processes:
            process.join(timeout=10 if len(answers) == world_size else 0)
            process.kill()
    return answers


def _run(asked: bytes, rank: int, world_size: int, queue: Any, environment: dict[str, str]) -> None:
    os.environ.clear()  # of the copy, which is as old as the collected tests
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    warnings.resetwarnings()  # of the tests, to which ours are errors
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        function, args = pickle.loads(asked)
        queue.put((rank, pickle.dumps(function(rank, world_size, *args)), ""))  # by value: tensors outlive us
    except Exception:
        queue.put((rank, b"", traceback.format_exc()))
    finally:
        queue.close()
        queue.join_thread()
        torch_dist.destroy_process_group()
