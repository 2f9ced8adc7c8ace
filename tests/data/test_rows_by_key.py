"""Rows by key: each is written once, processes see each other's, and what follows from anything else is forgotten."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading

import numpy as np
import pytest

from vlp.data import rows_by_key
from vlp.data.batch_rows import keys_of
from vlp.data.rows_by_key import RowsByKey
from vlp.ground.types import RecipeError

ROWS = np.arange(900, dtype=np.float32).reshape(300, 3) / 7
KEYS = np.random.default_rng(0).integers(-(2**63), 2**63, 300)


def opened(folder, about="tower 1", width=3):
    return RowsByKey(folder / "kept" / "0.sqlite", width, about)


def test_what_was_added_is_read_to_the_bit_and_written_once(tmp_path):
    rows = opened(tmp_path)
    rows.add(KEYS[[5, 7, 5]], ROWS[[5, 7, 6]])
    rows.add(KEYS[[7, 9]], ROWS[[8, 9]])
    known, found = rows.read(KEYS[[9, 3, 7, 5]])
    assert known.tolist() == [True, False, True, True]
    assert np.array_equal(found, [ROWS[9], [0, 0, 0], ROWS[7], ROWS[5]])
    assert rows.num_known == opened(tmp_path).num_known == 3


@pytest.mark.parametrize("other", [{"about": "tower 2"}, {"width": 4}])
def test_rows_of_anything_else_are_forgotten(tmp_path, other):
    opened(tmp_path).add(KEYS[:2], ROWS[:2])
    assert opened(tmp_path, **other).num_known == 0


def _add(folder, first):
    rows = opened(folder)
    for start in range(first, first + 200, 10):
        rows.add(KEYS[start : start + 10], ROWS[start : start + 10])


def test_processes_that_add_at_one_time_lose_nothing(tmp_path):
    """Their keys overlap by half, and each of them is there once."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(tmp_path, first)) for first in (0, 100)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    known, found = opened(tmp_path).read(KEYS)
    assert known.all() and np.array_equal(found, ROWS)


def test_who_opens_a_file_that_another_is_making_waits(tmp_path):
    """Then SQLite says at once that the database is locked, whatever time it was given."""
    (tmp_path / "kept").mkdir()
    maker = sqlite3.connect(tmp_path / "kept" / "0.sqlite", isolation_level=None, check_same_thread=False)
    maker.execute("BEGIN IMMEDIATE")
    maker.execute("CREATE TABLE about (told TEXT)")
    done = threading.Timer(0.3, lambda: maker.execute("COMMIT"))
    done.start()
    assert opened(tmp_path).num_known == 0
    done.join()


def test_a_file_that_stays_locked_is_named_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    maker = sqlite3.connect(tmp_path / "kept" / "0.sqlite", isolation_level=None)
    maker.execute("BEGIN IMMEDIATE")
    maker.execute("CREATE TABLE about (told TEXT)")
    monkeypatch.setattr(rows_by_key, "SECONDS_TO_WAIT", 0.2)
    with pytest.raises(RecipeError, match=r"0.sqlite cannot be used \(database is locked\)"):
        opened(tmp_path)


def test_a_file_that_cannot_be_written_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_by_key.time, "sleep", lambda _: pytest.fail("nobody else will change it"))
    opened(tmp_path)._base.close()
    (tmp_path / "kept" / "0.sqlite-wal").unlink(missing_ok=True)
    (tmp_path / "kept" / "0.sqlite-wal").mkdir()  # where its journal belongs
    with pytest.raises(RecipeError, match=r"0.sqlite cannot be used .*set train.keep_locked=false"):
        opened(tmp_path)


def test_a_row_that_finds_no_room_leaves_those_that_were_there(tmp_path):
    rows = opened(tmp_path)
    rows.add(KEYS[:1], ROWS[:1])
    rows._base.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.Error, match="full"):
        rows.add(KEYS[1:], ROWS[1:])
    assert rows.num_known == 1


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "0.sqlite").write_text("something else, and long enough to be looked at " * 99)
    with pytest.raises(RecipeError, match=r"train\.keep_locked: .*0\.sqlite cannot be used \(file is not a database\)"):
        opened(tmp_path)


def test_keys_are_those_of_tokens_without_their_padding():
    keys = keys_of(np.array([[5, 6, 0], [5, 6, 7], [5, 6, 9]]), np.array([2, 2, 3]))
    assert keys[0] == keys[1] != keys[2]
