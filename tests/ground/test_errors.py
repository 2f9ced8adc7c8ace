"""What an error says in one line."""

from __future__ import annotations

import pytest

from vlp.ground.errors import first_line, one_line, said_by


@pytest.mark.parametrize(
    ("said", "first", "all_of_it"),
    [
        ("cannot read", "cannot read", "cannot read"),
        ("\n  cannot read\nbecause of this\n", "cannot read", "cannot read because of this"),
        ("", "ValueError", ""),
    ],
)
def test_an_error_in_one_line(said, first, all_of_it):
    error = ValueError(said)
    assert (first_line(error), said_by(error)) == (first, all_of_it)
    assert one_line(error) == (f"ValueError: {all_of_it}" if said else "ValueError")
    assert first_line(error, kind=True) == (f"ValueError: {first}" if said else "ValueError")


def test_long_words_are_cut():
    assert said_by(ValueError("12345 7"), 7) == "12345 7" and said_by(ValueError("12345 78"), 7) == "12345 7..."
