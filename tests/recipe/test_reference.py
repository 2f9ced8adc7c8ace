"""What `vlp describe` prints, and the page in docs that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlp.cli import main
from vlp.objectives.base import terms
from vlp.recipe.reference import describe_page

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "terms.md"


def test_all_terms_are_listed_with_a_line_each(capsys):
    main(["describe"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(terms)
    assert all(len(line.split()) > 3 for line in lines)


def test_a_term_is_explained(capsys):
    main(["describe", "siglip"])
    text = capsys.readouterr().out
    assert "softplus(-z_ii - bias)" in text
    assert "arXiv:2303.15343" in text
    assert "objective: {siglip: {}}" in text
    assert "Reads: image_text" in text


def test_an_unknown_term_is_answered_with_the_nearest():
    with pytest.raises(SystemExit, match="did you mean 'siglip'"):
        main(["describe", "siglib"])


def test_the_page_in_docs_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == describe_page()
