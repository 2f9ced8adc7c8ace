"""Words inside a text: what is punctuation, and how a new word takes the place of an old one."""

from __future__ import annotations

import string
from collections.abc import MutableSequence

EDGES = string.punctuation + "\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u00ab\u00bb\u00bf\u00a1"


def bare(word: str) -> str:
    """Return a word in small letters, without the punctuation around it."""
    return word.strip(EDGES).lower()


def put(words: MutableSequence[str], place: int, new: str) -> None:
    """Replace a word; capital, punctuation and an article before it follow the new one."""
    old = words[place].strip(EDGES)
    if old[:1].isupper():
        new = new[:1].upper() + new[1:]
    before, _, after = words[place].partition(old)
    words[place] = f"{before}{new}{after}"
    if place and words[place - 1].lower() in ("a", "an"):
        article = words[place - 1][0]
        words[place - 1] = f"{article}n" if new[:1].lower() in "aeiou" else article


def exchange(words: MutableSequence[str], one: int, other: int) -> None:
    """Let two words change places; punctuation stays where it is, and so does the capital of the first word."""
    first, second = words[one].strip(EDGES), words[other].strip(EDGES)
    put(words, one, _uncapital(second) if other == 0 else second)
    put(words, other, _uncapital(first) if one == 0 else first)


def _uncapital(word: str) -> str:
    return word if word.isupper() else word[:1].lower() + word[1:]
