"""The default run: CPU, one thread, no network. `pytest -m gpu` alone sees the machine's GPUs."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests import narrowing, slow

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="")
sys.dont_write_bytecode = False  # whatever containers set: to compile and rewrite all tests anew takes each process 5 s
settings.register_profile("shared machine", deadline=None)  # a case may wait for its core
settings.load_profile("shared machine")
COMPUTED = "narrowing/computed"  # where the cache of pytest has what `narrowing` found
gc.disable()  # until ten thousand tests are collected, which would be looked through over and over


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a whole run say which tests are slow."""
    parser.addoption("--renew-slow", action="store_true", help=f"write {slow.LIST.name} anew from this run")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from everything but their own tests, before torch looks for them."""
    if config.getoption("markexpr") != "gpu":
        os.environ.update(CUDA_VISIBLE_DEVICES="")
    if config.getoption("renew_slow") and not hasattr(config, "workerinput"):  # not on a process of xdist's
        config.pluginmanager.register(slow.Stopwatch())
    if config.getoption("keyword") and not config.getoption("markexpr"):
        config.pluginmanager.register(slow.QuickAnswer())
    cache = getattr(config, "cache", None)
    narrowing.remembered.update({} if cache is None else cache.get(COMPUTED, {}))
    words = narrowing.words_of(config.getoption("keyword"))
    if words and not config.option.collectonly and not config.getoption("numprocesses", None):
        places = [Path(str(argument).partition("::")[0]) for argument in config.args]
        start_server(narrowing.files_with("run_processes(", places, frozenset(words)))  # while tests are collected


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remember what was found of files of tests."""
    cache = getattr(config, "cache", None)
    if cache is not None and narrowing.remembered != cache.get(COMPUTED, {}):
        cache.set(COMPUTED, narrowing.remembered)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file that `-k` cannot mean; a word that a mark has may mean any."""
    words = narrowing.words_of(config.getoption("keyword"))
    marks = " ".join(config.getini("markers"))
    if words is None or collection_path.suffix != ".py" or any(word in marks for word in words):
        return None
    return None if narrowing.may_hold(collection_path, frozenset(words)) else True


def pytest_sessionstart() -> None:
    """Keep to one thread, whatever a run asks for.

    Tests run beside each other, one process for each core: a second thread waits at every operation, a thousand times
    as long as the operation takes, and what one run sets stays for all tests that follow in its process.
    """
    set_num_threads = torch.set_num_threads
    torch.set_num_threads = lambda _: set_num_threads(1)
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, before some are chosen by their marks."""
    slow.mark(items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Collect garbage from now on, but not among what was imported; make ready for tests on several processes."""
    gc.freeze()
    gc.enable()
    starting = {item.module.__name__ for item in session.items if hasattr(item.module, "run_processes")}
    if not session.config.option.collectonly:
        start_server(sorted(starting))


def start_server(modules: Sequence[str]) -> None:
    """Make ready for tests on several processes, if there are any; what runs already stays."""
    if modules:
        importlib.import_module("tests.processes").start_server(modules)
