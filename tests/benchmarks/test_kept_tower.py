"""The benchmark of kept towers: a toy costs less once its images or captions are kept, with the same losses."""

from __future__ import annotations

import pytest

from benchmarks.kept_tower import measure, table


@pytest.mark.parametrize("locked", ["image", "text"])
def test_a_toy_can_be_measured(locked):
    found = measure(None, pairs=8, locked=locked, steps=2)
    assert found.apart == 0 if locked == "image" else found.apart < 1e-5
    assert len(found.without) == len(found.first) == len(found.kept) == 2
    assert sum(found.kept) < sum(found.first)  # nothing is decoded for the tower, or embedded
    (head, row) = table([found])
    assert head[:2] == ["towers", "locked"] and row[1] == locked
