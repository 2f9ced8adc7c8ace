"""Columns line up, and no cell breaks a table."""

from __future__ import annotations

import pytest

from vlp.ground.tabular import aligned, interval, markdown, p10_to_p90

ROWS = [("task", "n", "said"), ("emoji24", "5", "one | two"), ("a", "123", "")]


def test_columns_are_as_wide_as_their_widest_cell():
    assert aligned(ROWS, right=[1]) == ["task       n  said", "emoji24    5  one | two", "a        123"]


def test_a_cell_with_a_bar_or_a_line_break_stays_one_cell():
    assert markdown([*ROWS, ("b", "2", "two\nlines")], right=[1]).splitlines() == [
        "| task | n | said |",
        "| --- | ---: | --- |",
        "| emoji24 | 5 | one \\| two |",
        "| a | 123 |  |",
        "| b | 2 | two lines |",
    ]


@pytest.mark.parametrize(
    ("ends", "said"),
    [((0.25, 0.5), "0.2500 .. 0.5000"), ((None, 0.5), ""), ((-0.1, 0.2, "+"), "-0.1000 .. +0.2000")],
)
def test_an_interval_has_two_ends_or_is_not_there(ends, said):
    assert interval(*ends) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [((1.5,), "1,500.0 .. 1,500.0"), ((0.003, 0.001), "1.2 .. 2.8"), ([0.01 * n for n in range(11)], "10.0 .. 90.0")],
)
def test_percentiles_lie_within_what_was_measured(seconds, said):
    assert p10_to_p90(seconds, 1e-3, ",.1f") == said
