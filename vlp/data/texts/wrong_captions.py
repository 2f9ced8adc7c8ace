"""Wrong captions made of right ones by rules: what differs is small, visible, and decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from vlp.data.texts.spelling import bare, exchange, put
from vlp.data.texts.word_lists import ATTRIBUTES, OBJECTS, RELATIONS, STOP_WORDS
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError

Kind = Literal["order", "object", "attribute", "relation"]
KINDS: tuple[Kind, ...] = ("order", "object", "attribute", "relation")
TRIES = 8
Maker = Callable[[list[str], Draws], bool]

IRREGULAR = {
    "man": "men",
    "woman": "women",
    "mouse": "mice",
    "foot": "feet",
    "leaf": "leaves",
    "knife": "knives",
    "sheep": "sheep",
    "fish": "fish",
}


def plural(noun: str) -> str:
    """Return the plural of a noun of the lists."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def _others(groups: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Map each word to those that may take its place, from the first group that has it."""
    found: dict[str, tuple[str, ...]] = {}
    for group in groups:
        for word in group:
            found.setdefault(word, tuple(other for other in group if other != word))
    return found


TABLES: dict[Kind, dict[str, tuple[str, ...]]] = {
    "object": _others([*OBJECTS, *([plural(noun) for noun in group] for group in OBJECTS)]),
    "attribute": _others(ATTRIBUTES) | _others([[str(number) for number in range(2, 21)]]),
    "relation": _others(RELATIONS),
}


class WrongCaptions:
    """Make wrong captions that share almost all words with the right one.

    Yuksekgonul et al. 2023 (arXiv:2210.01936) for the order, Hsieh et al. 2023 (arXiv:2306.14610) for replaced objects,
    attributes and relations; there with parsers and language models, here with short lists of common English words.

    `order` lets two words that carry meaning change places; `object`, `attribute` (colours, sizes, materials, numbers)
    and `relation` (left and right, on and under) put another word of the same kind in the place of one. A caption to
    which a kind does not apply gets another kind, and in the end its words in another order. A caption of one unknown
    word becomes "no" and the word. No wrong caption equals the right one, and equal ones are avoided where possible.

    Args:
        count: Wrong captions for each right one.
        kinds: How often each kind is used; null is all alike.
        key: Where a sample has wrong captions of its own, as for `data.captions.keys` (`json.NAME`): a text or a list
            of texts, of which as many as are needed are drawn. What is left is made by the rules.
        mined: Folder of the captions that were mined for each sample of the one source (`vlp mine` writes it), of which
            as many are drawn, worded as captions of their own are; those that equal the right one are left out. What is
            left is made by the rules.
        first_words: Only so many words change: what the text tower cuts off must not hold the difference.
    """

    def __init__(
        self,
        *,
        count: int = 1,
        kinds: dict[Kind, float] | None = None,
        key: str | None = None,
        mined: str | None = None,
        first_words: int = 30,
    ):
        if count < 1:
            raise RecipeError(
                f"data.captions.negatives.count: {count} must be at least 1: leave the section out for none"
            )
        if first_words < 2:
            raise RecipeError(f"data.captions.negatives.first_words: {first_words} must be at least 2")
        if kinds is not None and (not kinds or min(kinds.values()) < 0 or sum(kinds.values()) <= 0):
            raise RecipeError(
                "data.captions.negatives.kinds: weights must not be negative, and one must be larger than 0"
            )
        if key is not None and mined is not None:
            raise RecipeError("data.captions.negatives: key and mined both say which captions are wrong: leave one out")
        self.count = count
        self.kinds = {kind: weight for kind, weight in (kinds or dict.fromkeys(KINDS, 1.0)).items() if weight > 0}
        self.first_words = first_words
        self.key = key

    def __call__(self, text: str, draws: Draws, given: Sequence[str] = ()) -> tuple[str, ...]:
        """Return `count` wrong captions.

        Args:
            given: Wrong captions that others made, which come first, in another order each time.
        """
        words = text.split()
        start, rest = words[: self.first_words], words[self.first_words :]
        right = _key(start)
        made = [wrong for wrong in dict.fromkeys(given) if _key(wrong.split()) != _key(words)]
        draws.shuffle(made)
        made = made[: self.count]
        seen = {right, *(_key(wrong.split()[: self.first_words]) for wrong in made)}
        for _ in range(self.count - len(made)):
            wrong = self._make(start, right, seen, draws)
            seen.add(_key(wrong))
            made.append(" ".join(wrong + rest))
        return tuple(made)

    def _make(self, words: list[str], right: str, seen: set[str], draws: Draws) -> list[str]:
        kinds = dict(self.kinds)
        while kinds:
            kind = list(kinds)[draws.weighted(list(kinds.values()))]
            for _ in range(TRIES):
                wrong = list(words)
                if not MAKERS[kind](wrong, draws):
                    break
                if _key(wrong) not in seen:
                    return wrong
            del kinds[kind]
        return _disorder(words, right, seen, draws)


def _key(words: Sequence[str]) -> str:
    return " ".join(words).casefold()


def _reorder(words: list[str], draws: Draws) -> bool:
    """Let two different words that carry meaning change places; say whether there are two."""
    places = [place for place, word in enumerate(words) if bare(word) and bare(word) not in STOP_WORDS]
    one = draws.choice(places) if places else 0
    others = [place for place in places if bare(words[place]) != bare(words[one])]
    if others:
        exchange(words, one, draws.choice(others))
    return bool(others)


def _replace_by(table: Mapping[str, Sequence[str]]) -> Maker:
    def replace(words: list[str], draws: Draws) -> bool:
        """Put another word of its group in the place of one; say whether there is one."""
        places = [place for place, word in enumerate(words) if bare(word) in table]
        if places:
            place = draws.choice(places)
            put(words, place, draws.choice(table[bare(words[place])]))
        return bool(places)

    return replace


def _disorder(words: list[str], right: str, seen: set[str], draws: Draws) -> list[str]:
    """Return the words in an order not seen, or seen but wrong; deny them where no other order exists."""
    mixed = list(words)
    for _ in range(TRIES):
        draws.shuffle(mixed)
        if _key(mixed) not in seen:
            return mixed
    turned = (words[place:] + words[:place] for place in range(1, len(words)))
    return next((order for order in turned if _key(order) != right), ["no", *words])


MAKERS: dict[Kind, Maker] = {"order": _reorder, **{kind: _replace_by(table) for kind, table in TABLES.items()}}
