"""Processes that a launcher starts again: nobody reads what earlier processes left in the launcher's store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from vlp.run.rendezvous import agree

pytestmark = pytest.mark.processes

JOIN = """
import os
from torch.distributed import all_reduce
import torch
from vlp.run.launch import join
join()
total = torch.tensor(1.0)
all_reduce(total)
print("total", int(total), flush=True)
os._exit(int(os.environ["CODE"]))  # as a crash: nothing is tidied up
"""


@pytest.fixture
def store():
    """The store of a launcher, which outlives the processes that it starts."""
    return TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=60))


def start(store: TCPStore, rank: int, *, code: int, restarts: int) -> subprocess.Popen:
    environment = {
        **os.environ,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "CODE": str(code),
    }
    return subprocess.Popen([sys.executable, "-c", JOIN], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.long
@pytest.mark.parametrize("late", [0, 1])
def test_processes_started_again_find_each_other_whoever_is_late(store, late):
    """The launchers of two machines count restarts for themselves, so the counts differ here."""
    crashed = [start(store, rank, code=9, restarts=0) for rank in range(2)]
    assert [process.communicate(timeout=120)[0] for process in crashed] == ["total 2\n"] * 2
    first = start(store, 1 - late, code=0, restarts=1)
    time.sleep(8)  # it has read all that it can read by now
    second = start(store, late, code=0, restarts=0)
    try:
        assert [process.communicate(timeout=60)[0] for process in (first, second)] == ["total 2\n"] * 2
    finally:
        for process in (first, second):
            process.kill()


def test_who_does_not_start_is_named(store):
    with pytest.raises(TimeoutError, match=r"processes 1, 2 of 3 did not start within 0 s"):
        agree(store, 0, 3, timedelta(seconds=0.2))


def test_the_module_can_be_loaded_again():
    """As notebooks do that follow changes of the code."""
    code = "import importlib, vlp.run.rendezvous as r; importlib.reload(r)"
    subprocess.run([sys.executable, "-c", code], check=True)
