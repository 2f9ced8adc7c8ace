"""The default run: CPU, one thread, no network. `pytest -m gpu` alone sees the machine's GPUs.

Where several processes share the tests, the one that gives them out imports none of what is tested: it takes seconds.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
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


def wants_one_part(config: pytest.Config) -> bool:
    """Return whether all tests are asked about one part, and nobody talks to them or shares them otherwise."""
    option = config.option
    talks = option.usepdb or option.trace or option.capture == "no" or option.collectonly
    shares = getattr(option, "numprocesses", None) is not None or hasattr(config, "workerinput")
    asks_all = option.keyword and not option.markexpr and config.args == config.getini("testpaths")
    return bool(asks_all) and not talks and not shares and (os.cpu_count() or 1) > 1


def gives_out(config: pytest.Config) -> bool:
    """Return whether other processes run the tests."""
    return bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from everything but their own tests, before torch looks for them; warnings of this package fail."""
    if config.getoption("markexpr") != "gpu":
        os.environ.update(CUDA_VISIBLE_DEVICES="")
    if not gives_out(config):
        config.addinivalue_line("filterwarnings", "error::vlp.ground.types.VlpWarning")
    if config.getoption("renew_slow") and not hasattr(config, "workerinput"):  # not on a process of xdist's
        config.pluginmanager.register(slow.Stopwatch())
    if config.getoption("keyword") and not config.getoption("markexpr"):
        config.pluginmanager.register(slow.QuickAnswer())
    if wants_one_part(config):
        from tests.sharing import Shared

        config.pluginmanager.register(Shared())
    cache = getattr(config, "cache", None)
    narrowing.remembered.update({} if cache is None else cache.get(COMPUTED, {}))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remember what was found of files of tests; the end of the process need not look for garbage in all modules."""
    gc.freeze()
    cache = getattr(config, "cache", None)
    if cache is not None and not gives_out(config) and narrowing.remembered != cache.get(COMPUTED, {}):
        cache.set(COMPUTED, narrowing.remembered)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file that `-k` cannot mean; a word that a mark has may mean any."""
    words = narrowing.words_of(config.getoption("keyword"))
    marks = " ".join(config.getini("markers"))
    if words is None or collection_path.suffix != ".py" or any(word in marks for word in words):
        return None
    return None if narrowing.may_hold(collection_path, frozenset(words)) else True


def pytest_sessionstart(session: pytest.Session) -> None:
    """Keep to one thread, whatever a run asks for.

    Tests run beside each other, one process for each core: a second thread waits at every operation, a thousand times
    as long as the operation takes, and what one run sets stays for all tests that follow in its process.
    """
    if gives_out(session.config):
        return
    import torch

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
    if not session.config.option.collectonly and any(hasattr(item.module, "run_processes") for item in session.items):
        from tests.processes import keep_a_copy

        keep_a_copy()
