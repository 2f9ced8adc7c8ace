"""The benchmark of kept towers: a toy costs less once its images are kept, with the same losses."""

from __future__ import annotations

from benchmarks.kept_tower import measure, table


def test_a_toy_can_be_measured():
    found = measure(None, pairs=8, steps=2)
    assert found.losses_equal
    assert len(found.without) == len(found.first) == len(found.kept) == 2
    assert sum(found.kept) < sum(found.first)  # nothing is decoded or embedded
    (head, row) = table([found])
    assert head[0] == "towers" and row[-1] == "equal"
