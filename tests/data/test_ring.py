"""Slots go round, are never refilled under somebody's eyes, and want of memory is said at the start."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from vlp.data.processes import ring as ring_file
from vlp.data.processes.ring import Board, Ring
from vlp.ground.types import RecipeError

SHAPE = (1, 2, 3)


def num_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def take_all(ring):
    return list(iter(ring.take, None))


def test_a_slot_is_taken_once_and_free_again_when_its_tensor_is_gone():
    ring = Ring(2, 2, SHAPE)
    assert take_all(ring) == [0, 1]
    tensor = ring.lend(1)
    assert ring.num_lent == 1 and ring.take() is None
    del tensor
    assert ring.num_lent == 0 and take_all(ring) == [1]


@pytest.mark.parametrize("look", [lambda t: t[:, 1:], lambda t: t.view(-1), lambda t: t.numpy()[0], lambda t: [t, t]])
def test_a_slot_stays_lent_while_any_view_of_it_lives(look):
    ring = Ring(1, 2, SHAPE)
    view = look(ring.lend(ring.take()))
    assert ring.num_lent == 1 and ring.take() is None
    del view
    assert ring.take() == 0


def test_what_a_slot_holds_outlives_the_ring():
    ring = Ring(2, 2, SHAPE)
    ring[1][:] = 7
    tensor = ring.lend(1)
    del ring
    assert torch.equal(tensor, torch.full(SHAPE, 7, dtype=torch.uint8))


def test_notes_of_different_rows_do_not_touch():
    ring = Ring(3, 2, SHAPE)
    notes = {(slot, row): [slot, row, "x" * 100_000] for slot in range(3) for row in range(2)}
    sizes = {place: ring.write_note(*place, note) for place, note in notes.items()}
    assert all(ring.read_note(*place, sizes[place]) == note for place, note in notes.items())


def fill(ring, board):
    ring[1][:] = 5
    ring.write_note(1, 0, "done")
    board.write(1, 42)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_other_processes_see_the_same_memory(method):
    ring, board = Ring(2, 2, SHAPE), Board(2)
    process = multiprocessing.get_context(method).Process(target=fill, args=(ring, board))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert np.array_equal(ring[1], np.full(SHAPE, 5)) and not ring[0].any()
    assert board.sample(1) == 42 and 0 <= board.seconds(1) < 60


@pytest.mark.parametrize("fault", [AttributeError, OSError(28, "No space left on device")])
def test_a_file_without_a_name_does_where_memory_has_none(monkeypatch, tmp_path, fault):
    def refuse(name):
        raise fault

    monkeypatch.setattr(ring_file.os, "memfd_create", refuse)
    monkeypatch.setattr(ring_file.tempfile, "tempdir", str(tmp_path))
    ring = Ring(2, 2, SHAPE)
    ring[1][:] = 9
    assert str(tmp_path) in str(Path(f"/proc/self/fd/{ring._memory.file}").readlink())
    assert not list(tmp_path.iterdir())


def ask_for_too_much(queue):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    files = num_open_files()
    try:
        Ring(4, 8, (1, 8, 224, 224, 3))
    except RecipeError as error:
        queue.put((str(error), num_open_files() - files))


def test_too_little_memory_is_an_error_that_names_the_size_and_the_key():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=ask_for_too_much, args=(queue,))
    process.start()
    process.join()
    said, left_open = queue.get()
    assert "data.workers: 5 MiB" in said and "File too large" in said and "train.batch_size" in said
    assert left_open == 0


def test_more_than_the_machine_has_is_refused_before_it_is_tried(monkeypatch):
    monkeypatch.setattr(ring_file, "_available", lambda: 1000)
    monkeypatch.setattr(ring_file.tempfile, "mkstemp", refuse_disk)
    with pytest.raises(RecipeError, match=r"data\.workers: 1 MiB.*No space left on device"):
        Ring(4, 8, (1, 8, 32, 3))
    Ring(4, 8, (1, 8, 8, 3))


def refuse_disk(prefix):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_memory_is_given_back():
    before = num_open_files()
    for _ in range(3):
        Ring(1, 1, SHAPE)
    assert num_open_files() == before
