"""Captions in other words: without function words, with synonyms, in another order, with gaps."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from vlp.data.texts.spelling import bare, put
from vlp.data.texts.word_lists import STOP_WORDS
from vlp.ground.paths import find_file
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError

SYNONYMS = "words/synonyms.tsv"


class TextAugment:
    """Leave out function words sometimes, then make at most one of three changes.

    Fini et al. 2023, section 3 (arXiv:2305.08675), which takes the changes from Wei and Zou 2019 (arXiv:1901.11196).
    All settings but the last two are probabilities; without any of them a text stays as it is.

    Args:
        drop_stop_words: Leave out all articles, pronouns, auxiliaries and the like, where something else is left.
        synonyms: Replace some words by synonyms.
        swap: Let some words change places with others.
        delete: Leave out words, each with probability `share`; at least one stays.
        share: Part of the words that a change touches; at least one word.
        synonym_file: Lines of a word and its synonyms, separated by tabs; the default is made of WordNet 3.0.
    """

    def __init__(
        self,
        *,
        drop_stop_words: float = 0.0,
        synonyms: float = 0.0,
        swap: float = 0.0,
        delete: float = 0.0,
        share: float = 0.1,
        synonym_file: str = SYNONYMS,
    ):
        named = {"drop_stop_words": drop_stop_words, "synonyms": synonyms, "swap": swap, "delete": delete}
        for name, value in named.items():
            if not 0 <= value <= 1:
                raise RecipeError(f"data.captions.augment.{name}: {value} is no probability")
        if synonyms + swap + delete > 1 + 1e-9:
            raise RecipeError(
                "data.captions.augment: synonyms, swap and delete exclude each other, so they cannot add up to "
                f"{synonyms + swap + delete:g}: at most 1"
            )
        if not 0 < share <= 1:
            raise RecipeError(f"data.captions.augment.share: {share} is no share of the words")
        if synonym_file != SYNONYMS and not synonyms:
            raise RecipeError(
                "data.captions.augment.synonym_file has no effect without data.captions.augment.synonyms, a probability"
            )
        self.drop_stop_words = drop_stop_words
        self.changes = (synonyms, swap, delete)
        self.share = share
        self.synonyms = read_synonyms(find_file("data", synonym_file)) if synonyms else {}

    @property
    def is_on(self) -> bool:
        """Whether it changes anything at all."""
        return bool(self.drop_stop_words or any(self.changes))

    def __call__(self, text: str, draws: Draws) -> str:
        """Return the text in other words; the same for the same draws."""
        drops, change = draws.uniform() < self.drop_stop_words, draws.uniform()
        words = text.split() if drops or change < sum(self.changes) else []
        if not words:
            return text
        if drops:
            words = [word for word in words if bare(word) not in STOP_WORDS] or words
        for probability, apply in zip(self.changes, (self._replace, self._swap, self._delete), strict=True):
            if 0 <= change < probability:
                words = apply(words, draws)
            change -= probability
        return " ".join(words)

    def _replace(self, words: list[str], draws: Draws) -> list[str]:
        places = [place for place, word in enumerate(words) if bare(word) in self.synonyms]
        draws.shuffle(places)
        for place in places[: self._count(words)]:
            put(words, place, draws.choice(self.synonyms[bare(words[place])]))
        return words

    def _swap(self, words: list[str], draws: Draws) -> list[str]:
        if len(words) < 2:
            return words
        for _ in range(self._count(words)):
            one = draws.integer(len(words))
            other = (one + 1 + draws.integer(len(words) - 1)) % len(words)
            words[one], words[other] = words[other], words[one]
        return words

    def _delete(self, words: list[str], draws: Draws) -> list[str]:
        kept = [word for word in words if draws.uniform() >= self.share]
        return kept or [draws.choice(words)]

    def _count(self, words: list[str]) -> int:
        return max(1, int(self.share * len(words)))


@cache
def read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the synonyms of each word of a file.

    Raises:
        RecipeError: A line has no synonym, or the file is no text.
    """
    found: dict[str, tuple[str, ...]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"data.captions.augment.synonym_file: {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        word, *others = (part.strip() for part in line.split("\t"))
        if not line.strip():
            continue
        if not word or not others or not all(others):
            raise RecipeError(
                f"data.captions.augment.synonym_file: {path}, line {number}: a word and its synonyms, separated by "
                f"tabs, are expected, not {line!r}"
            )
        found[word.lower()] = tuple(others)
    return found
