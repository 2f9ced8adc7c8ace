"""`pytest -k NAME` leaves no file out in which a test has that name."""

from __future__ import annotations

import re

import pytest

from tests import narrowing


def test_no_test_of_this_run_would_be_missed(request):
    """Each word of its name must stand in its file, or the file be known to compute names."""
    for item in request.session.items:
        name = re.sub(r"\\[ux]\w+", " ", item.nodeid.partition("::")[2])  # escaped characters
        words = [narrowing.words_of(word) for word in re.findall(r"[a-z]\w{2,}", name)]
        missed = [word for word in words if word and not narrowing.may_hold(item.path, frozenset(word))]
        assert not missed, f"{item.nodeid}: {missed}"


@pytest.mark.parametrize(
    ("parameters", "computed"),
    [
        ('["a", 1.5, -2, None, ("b", int)]', False),
        ("[lambda: 1, helper, torch.float16, VIT | {}, {**VIT}, OSError(28, 'full')]", False),
        ('[pytest.param("a", id="b"), [], [VIT]]', False),
        ("HERE", False),
        ("range(9)", False),
        ("[*HERE]", True),
        ("ELSEWHERE", True),
        ("module.CONSTANT", True),
        ("sorted(REGISTRY)", True),
        ("[name for name in names]", True),
        ('[f"{name}"]', True),
        ("[('a', elsewhere())]", True),
        ("elsewhere()", True),
    ],
)
def test_parameters_are_plain_where_all_that_names_are_made_of_stands_there(parameters, computed):
    text = f'import pytest\nHERE = ["a", 1]\n@pytest.mark.parametrize("x", {parameters})\ndef test_it(x): ...\n'
    assert narrowing.has_computed_names(text) == computed
    fixture = f'import pytest\nHERE = ["a", 1]\n@pytest.fixture(params={parameters})\ndef x(): ...\n'
    assert narrowing.has_computed_names(fixture) == computed


def test_files_without_the_word_are_left_out(tmp_path):
    path = tmp_path / "test_one.py"
    path.write_text("def test_clip(): ...\n", encoding="utf-8")
    assert narrowing.may_hold(path, frozenset({"clip"}))
    assert narrowing.may_hold(path, frozenset({"one"}))
    assert not narrowing.may_hold(path, frozenset({"siglip"}))
    path.write_text("def pytest_generate_tests(metafunc): ...\n", encoding="utf-8")
    assert narrowing.may_hold(path, frozenset({"siglip"}))


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ("cwcl", {"cwcl"}),
        ("CWCL or siglip0", {"cwcl", "siglip"}),
        ("7", None),
        ("not cwcl", None),
        ("clip and not cwcl", None),
    ],
)
def test_an_expression_with_not_is_no_reason_to_leave_files_out(keyword, words):
    assert narrowing.words_of(keyword) == words
