"""Run a function in several real gloo processes."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Iterable
from multiprocessing import forkserver
from typing import Any

import torch
import torch.distributed as torch_dist
import torch.multiprocessing as mp

from benchmarks.ports import free_port

PRELOADED = ["torch.distributed", "scipy.special"]


def start_server(modules: Iterable[str]) -> None:
    """Begin to load what the processes will need: a server does, once, and each of them is a copy of it.

    Args:
        modules: Those whose functions they run.
    """
    forkserver.set_forkserver_preload([*PRELOADED, *modules])
    forkserver.ensure_running()


def run_processes(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 400, fresh: bool = False
) -> list[Any]:
    """Return `function(rank, world_size, *args)` of every process, in rank order.

    Args:
        function: A module-level function; its result must be picklable.
        fresh: Start from nothing, for what must be set before some module is imported.

    Raises:
        RuntimeError: A process failed; carries its traceback.
    """
    context = mp.get_context("spawn" if fresh else "forkserver")
    queue = context.Queue()
    port = free_port()
    processes = [
        context.Process(target=_run, args=(function, rank, world_size, port, queue, args, dict(os.environ)))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        answers = [queue.get(timeout=timeout) for _ in processes]
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    failures = [failure for _, _, failure in answers if failure]
    if failures:
        raise RuntimeError(failures[0])
    return [pickle.loads(result) for _, result, _ in sorted(answers, key=lambda answer: answer[0])]


def _run(
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    port: int,
    queue: Any,
    args: tuple[Any, ...],
    environment: dict[str, str],
) -> None:
    os.environ.clear()  # of the server, which is as old as the first call
    os.environ.update(environment)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        queue.put((rank, pickle.dumps(function(rank, world_size, *args)), None))  # by value: tensors outlive us
    except Exception:
        queue.put((rank, None, traceback.format_exc()))
    finally:
        queue.close()
        queue.join_thread()
        torch_dist.destroy_process_group()
