"""Columns line up, and no cell breaks a table."""

from __future__ import annotations

import pytest

from vlp.ground.tabular import aligned, interval, markdown

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
