"""`vlp bench loss`: tiles are timed, the fastest stay, and what does not run is said; here in Triton's interpreter."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from vlp.commands.timed_kernels import TimedBlocks, keep_fastest, run_bench_loss, table_of
from vlp.ground.types import RecipeError
from vlp.pairs.kernel_blocks import INTERPRETED, Blocks, blocks_for, known_blocks

CPU = torch.device("cpu")
SMALL, TOO_ODD = Blocks(32, 16, 16, 1), Blocks(12, 16, 16, 1)  # tiles are powers of two


def _interpret(cache):
    os.environ |= {"TRITON_INTERPRET": "1", "XDG_CACHE_HOME": cache}


def _time_and_keep():
    from vlp.commands import timed_kernels

    found = timed_kernels.time_kernels(pairs=20, width=8, device=CPU, candidates=(TOO_ODD, SMALL, INTERPRETED))
    told = timed_kernels.keep_fastest(found, CPU)
    return found, told, blocks_for(torch.ones(1, 1))


def test_the_fastest_tiles_stay_and_those_that_do_not_run_are_said(tmp_path):
    with ProcessPoolExecutor(1, get_context("spawn"), _interpret, (str(tmp_path),)) as pool:
        found, told, used = pool.submit(_time_and_keep).result()
        again = pool.submit(blocks_for, torch.ones(1, 1)).result()
    assert {each.blocks for each in found[:2]} == {SMALL, INTERPRETED}
    assert found[0].median <= found[1].median and len(found[0].seconds) == 7
    assert found[2].blocks == TOO_ODD and "power of 2" in found[2].error
    assert used == again == found[0].blocks and str(tmp_path) in told
    lines = table_of(found).splitlines()
    assert " ms   " in lines[0] and "12 x 16 x 16, 1 warps      does not run: " in lines[2]


def test_where_nothing_runs_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RecipeError, match="no tiles run on cpu: out of shared memory"):
        keep_fastest([TimedBlocks(SMALL, error="out of shared memory")], CPU)
    assert known_blocks() == {}


@pytest.mark.parametrize(("pairs", "match"), [(0, "must be positive"), (8, "kernels run on a GPU")])
def test_without_a_device_the_command_says_what_it_needs(pairs, match, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match=match):
        run_bench_loss(argparse.Namespace(pairs=pairs, width=8, forget=False))
