"""Open files are shared by threads and by forked processes, and few of them are open at a time."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vlp.data.shards import open_files
from vlp.data.shards.open_files import OpenFiles


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / str(number) for number in range(20)]
    for number, path in enumerate(found):
        path.write_bytes(bytes([number]) * 4096)
    return found


def test_threads_get_what_they_asked_for(paths, monkeypatch):
    """With few descriptors, those of one thread would be closed for another's between its opening and its reading."""
    read_at = os.pread

    def read_late(*where):
        time.sleep(1e-4)
        return read_at(*where)

    monkeypatch.setattr(os, "pread", read_late)
    monkeypatch.setattr(open_files, "MOST_OPEN", 2)
    files = OpenFiles()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: files.read(paths[number % 20], 100, 1), range(400)))
    assert found == [bytes([number % 20]) for number in range(400)]


def test_a_forked_process_waits_for_no_thread_that_it_lacks(paths, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    files = OpenFiles()

    def wait_for_a_writer():
        with contextlib.suppress(OSError):  # a pipe has no places
            files.read(tmp_path / "pipe", 0, 1)

    thread = threading.Thread(target=wait_for_a_writer)
    thread.start()
    time.sleep(0.2)  # until it waits
    child = os.fork()
    if child == 0:
        os._exit(0 if files.read(paths[3], 0, 2) == b"\x03\x03" else 1)
    deadline = threading.Timer(20, os.kill, (child, 9))
    deadline.start()
    _, status = os.waitpid(child, 0)
    deadline.cancel()
    os.close(os.open(tmp_path / "pipe", os.O_WRONLY))
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_spawned_process_opens_its_own(paths):
    files = OpenFiles()
    assert files.read(paths[1], 0, 1) == b"\x01"
    assert pickle.loads(pickle.dumps(files)).read(paths[1], 0, 1) == b"\x01"
