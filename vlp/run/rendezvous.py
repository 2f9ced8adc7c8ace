"""How the processes of a job find each other, also when their launcher starts them again."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

SCHEME = "afresh"
URL = f"{SCHEME}://"  # for `init_method` of torch and Accelerate
PAUSE = 0.05  # seconds between two looks


def _afresh(url: str, *, timeout: timedelta, **options: Any) -> Iterator[tuple[Store, int, int]]:
    """Do what `env://` does, in a part of the launcher's store that nobody wrote to before.

    The store of torchrun outlives the processes that it starts (pytorch/pytorch#135712). Without a part of its own, a
    process that was started again may read the address that process 0 had before, and wait there for the whole
    time-out. The launcher's count of restarts does not tell the parts apart: each machine counts its own.
    """
    store, rank, size = next(rendezvous(url.replace(SCHEME, "env", 1), timeout=timeout, **options))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = PrefixStore(agree(store, rank, size, timeout), store)
    yield store, rank, size


def agree(store: Store, rank: int, size: int, timeout: timedelta) -> str:
    """Return a name that process 0 has just made up, on all processes.

    Each process greets with a number of its own, and process 0 answers under that number, so that nobody takes an
    answer for its own that was meant for an earlier process. It goes on to answer new greetings until all have thanked.

    Raises:
        TimeoutError: On process 0; names the processes that did not start.
    """
    if rank:
        greeting = uuid.uuid4().hex
        store.set(f"vlp/greeting/{rank}", greeting)
        store.wait([f"vlp/answer/{greeting}"], timeout)
        name = store.get(f"vlp/answer/{greeting}").decode()
        store.set(f"{name}/thanks/{rank}", "")
        return name
    name = f"vlp/{uuid.uuid4().hex}"
    missing = set(range(1, size))
    deadline = time.monotonic() + timeout.total_seconds()
    while missing:
        for other in tuple(missing):
            if store.check([f"{name}/thanks/{other}"]):
                missing.remove(other)
            elif store.check([f"vlp/greeting/{other}"]):
                store.set(f"vlp/answer/{store.get(f'vlp/greeting/{other}').decode()}", name)
        if time.monotonic() > deadline:
            others = ", ".join(map(str, sorted(missing)))
            raise TimeoutError(f"processes {others} of {size} did not start within {timeout.total_seconds():.0f} s")
        time.sleep(PAUSE)
    return name


with contextlib.suppress(RuntimeError):  # it is known already where this module is loaded anew
    register_rendezvous_handler(SCHEME, _afresh)
