"""A cell that spells out a list of captions is that list; any other text stays what it is."""

from __future__ import annotations

import json

import pytest

from vlp.curate.sources.rows import caption_members
from vlp.curate.sources.spelled_lists import spelled_list

BOTH = ["a dog's ball", 'the "red" one, é']


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(BOTH),
        json.dumps(BOTH, ensure_ascii=False, indent=1),
        str(BOTH),
        f" {tuple(BOTH)!r} ".replace("(", "[").replace(")", "]"),
    ],
)
def test_json_and_python_are_read(text):
    assert spelled_list(text) == BOTH


def test_what_numpy_writes_is_not_one_text():
    assert spelled_list("['a red\\n boat' 'the boat'\n 'a third']") == ["a red\n boat", "the boat", "a third"]


@pytest.mark.parametrize(
    "text",
    [
        "a red boat", "[a red boat]", "[]", "[1, 2]", "['a', 1]", "['a', b'b']", "['a'", "['a'] ['b']", "[f'{1}']",
        "['a' + 'b']", "[['a'], ['b']]", "['a\n']", "[__import__('os')]", "[" * 1000 + "]" * 1000, "['\ud800']x",
    ],
)  # fmt: skip
def test_anything_else_is_a_text(text):
    assert spelled_list(text) is None


def test_a_list_becomes_several_captions():
    assert json.loads(caption_members(str(BOTH))["json"]) == {"caption": BOTH}
    assert caption_members("[a red boat]") == {"txt": b"[a red boat]"}
