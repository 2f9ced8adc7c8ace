"""Words of captions: which carry meaning, which are common, and one in the place of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vlp.data.texts.spelling import bare, put
from vlp.data.texts.word_lists import STOP_WORDS


def common_words(texts: Sequence[str], most: int) -> tuple[str, ...]:
    """Return the words of most texts, commonest first, without those that nobody can see."""
    counts = Counter(word for text in texts for word in dict.fromkeys(map(bare, text.split())))
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(word for word in ordered if word and word not in STOP_WORDS)[:most]


def changeable(text: str) -> list[int]:
    """Return the places of words that carry meaning; of all words where none does."""
    words = text.split()
    found = [place for place, word in enumerate(words) if bare(word) and bare(word) not in STOP_WORDS]
    return found or list(range(len(words)))


def left_out(text: str, place: int) -> str:
    """Return a text without one of its words."""
    words = text.split()
    return " ".join([*words[:place], *words[place + 1 :]])


def exchanged(text: str, place: int, word: str) -> str:
    """Return a text with another word at a place; capital, punctuation and article follow it."""
    words = text.split()
    put(words, place, word)
    return " ".join(words)
