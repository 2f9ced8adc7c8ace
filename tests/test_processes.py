"""Functions run in several processes, which are copies of the run of tests or start from nothing."""

from __future__ import annotations

import os
import time
import warnings

import pytest
import torch
import torch.distributed as torch_dist

from tests.processes import run_processes
from vlp.ground.types import VlpWarning

at_start = os.getpid()
BOTH = pytest.mark.parametrize("fresh", [False, True])


def summed(rank, world_size, value):
    total = value * (rank + 1)
    torch_dist.all_reduce(total)
    return rank, world_size, total, os.environ["OF_THE_TEST"], at_start


def failing(rank, world_size):
    if rank == 1:
        raise KeyError("of the second")


def warning(rank, world_size):
    warnings.warn("of this package", VlpWarning, stacklevel=2)


def late(rank, world_size):
    time.sleep(60 * rank)


@BOTH
def test_answers_come_in_rank_order_and_processes_see_what_the_test_set(monkeypatch, fresh):
    monkeypatch.setenv("OF_THE_TEST", "here")
    answers = run_processes(summed, 2, torch.ones(3), fresh=fresh)
    assert [answer[:2] for answer in answers] == [(0, 2), (1, 2)]
    assert all(torch.equal(answer[2], torch.full((3,), 3.0)) for answer in answers)
    assert {answer[3] for answer in answers} == {"here"}
    assert all((answer[4] == at_start) is not fresh for answer in answers)  # imported once, or anew


def test_what_failed_is_told():
    with pytest.raises(RuntimeError, match="KeyError: 'of the second'"):
        run_processes(failing, 2)


@BOTH
def test_a_warning_of_this_package_is_no_error_there(fresh):
    assert run_processes(warning, 1, fresh=fresh) == [None]


def test_a_process_that_does_not_answer_is_not_waited_for():
    with pytest.raises(TimeoutError, match="1 of 2 processes answered within 3 s"):
        run_processes(late, 2, timeout=3)
    assert run_processes(failing, 1) == [None]  # and others start as before
