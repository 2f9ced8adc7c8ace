"""Which words go with an image this time."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vlp.data.faults import BadSampleError, net
from vlp.data.samples import Sample
from vlp.data.shards.cards import is_record
from vlp.data.texts.cleaning import Rubbish, remove
from vlp.data.texts.sample_texts import LARGEST_CAPTION, values_under
from vlp.ground.paths import find_file
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError

MOST_DIGITS = 12
# `{c}` is what prompt files of evaluations write.
PLACE = re.compile(r"\{c?\}")


@dataclass(frozen=True)
class Caption:
    """What an image is paired with.

    Args:
        text: What the text tower reads.
        identity: Captions that share it are no negatives of each other.
    """

    text: str
    identity: str


Wording = Literal["all", "first", "one", "some"]


class Captions:
    """Choose and word one caption of a sample.

    Args:
        keys: Where captions are, with weights: `txt` is a member of each sample, `json.NAME` a key of its JSON member
            (a text, or a list of texts of which one is drawn), `json.NAME.NAME` a key within, `meta.json.NAME` one of
            the member `meta.json`. Null uses what the card says. Keys that a sample lacks are left out of the draw.
        class_names: Names of classes, as a list or in a file with one per line, for captions that are numbers (`cls`,
            `json.label`): number 0 is the first.
        lines: Whether each line of a caption is a caption of its own, of which one is drawn.
        separator: What separates the pieces of a caption like "cat, pet, animal"; null leaves captions whole.
        wording: With a separator, how often each of these is used: `all` pieces as they stand, the `first` alone,
            `one` of the others alone, or `some`: the first and a random part of the others in random order.
        templates: Sentences with `{}` for the caption, such as "a drawing of a {}", as a list or in a file with one
            per line, where `{c}` may stand for `{}`.
        template_probability: How often one of the templates is used.
        clean: What is removed: `urls` (web addresses), `tags` (HTML), `file_names` (such as photo.jpg or IMG_1234),
            `repeats` (all but the first of equal punctuation marks in a row). A caption of which nothing is left
            counts as a bad sample.
        lower: Turn capitals into small letters.
        identity: What makes two captions equal, so that neither is a negative of the other's image: the drawn `text`
            before any template, or the `first` piece, whatever wording was drawn. Case does not count.
    """

    def __init__(
        self,
        *,
        keys: dict[str, float] | None = None,
        class_names: tuple[str, ...] | str = (),
        lines: bool = False,
        separator: str | None = None,
        wording: dict[Wording, float] | None = None,
        templates: tuple[str, ...] | str = (),
        template_probability: float = 0.5,
        clean: tuple[Rubbish, ...] = (),
        lower: bool = False,
        identity: Literal["text", "first"] = "text",
    ):
        _check_weights("keys", keys)
        for key in filter(is_record, keys or ()):
            raise RecipeError(f"data.captions.keys: '{key}' is a whole document: name a key in it, as {key}.caption")
        _check_weights("wording", wording)
        if wording is not None and not separator:
            raise RecipeError("data.captions.wording has no effect without data.captions.separator")
        if identity == "first" and not separator:
            raise RecipeError("data.captions.identity=first has no effect without data.captions.separator")
        if not 0 <= template_probability <= 1:
            raise RecipeError(f"data.captions.template_probability: {template_probability} is no probability")
        self.templates = _lines("templates", templates)
        for template in self.templates:
            if not PLACE.search(template):
                raise RecipeError(f"data.captions.templates: '{template}' lacks {{}} where the caption goes")
        self.keys = keys
        self.class_names = _lines("class_names", class_names)
        self.lines = lines
        self.separator = separator
        self.wording: Mapping[Wording, float] = wording or {"all": 1.0}
        self.template_probability = template_probability
        self.clean = clean
        self.lower = lower
        self.identity = identity

    @property
    def is_finite(self) -> bool:
        """Whether a sample has few captions, which come again in other epochs."""
        return not self.wording.get("some", 0)

    @net("bad_caption")
    def __call__(self, sample: Sample, draws: Draws) -> Caption:
        """Return a caption drawn for training.

        Raises:
            BadSampleError: There is none, it is empty, too long, or not text.
        """
        found = _find(sample, self.keys or sample.caption_keys)
        key = list(found)[draws.weighted([weight for weight, _ in found.values()])]
        whole = self._clean(draws.choice(self._candidates(key, found[key][1])), key)
        pieces = self._split(whole)
        return self._worded(self._reword(whole, pieces, draws), pieces, draws)

    @net("bad_caption")
    def first(self, sample: Sample) -> str:
        """Return the same caption at every call: the first key's first, in full.

        Raises:
            BadSampleError: There is none, it is empty, too long, or not text.
        """
        key, texts = self._listed(sample)
        return self._clean(texts[0], key)

    @net("bad_caption")
    def all(self, sample: Sample) -> list[str]:
        """Return all captions of the first key, in full.

        Raises:
            BadSampleError: There is none, or one is empty, too long, or not text.
        """
        key, texts = self._listed(sample)
        return [self._clean(text, key) for text in texts]

    @net("bad_caption")
    def under(self, key: str, sample: Sample) -> list[str]:
        """Return all texts under a key, in full; none where the sample has no such key.

        Raises:
            BadSampleError: One is empty, too long, or not text.
        """
        values = [value for value in values_under(sample, key, {}) if value not in ([], None)]
        return [self._clean(text, key) for value in values for text in self._candidates(key, value)]

    @net("bad_caption")
    def of_another(self, text: str, draws: Draws) -> Caption | None:
        """Return a whole caption of another sample, worded like those drawn for training; None where nothing is left.

        With a separator, its first piece is always there: the others may be true of many images.

        Raises:
            BadSampleError: It is too long, or not text.
        """
        whole = self.tidy(text, "a mined caption")
        if not whole:
            return None
        pieces = self._split(whole)
        return self._worded(self._reword(whole, pieces, draws, keep_first=True), pieces, draws)

    @net("bad_caption")
    def tidy(self, text: str, key: str) -> str:
        """Return a text of a document, without what `clean` and `lower` take away; perhaps nothing is left.

        Args:
            key: Where it stands.

        Raises:
            BadSampleError: It is too long, or not text.
        """
        text = " ".join(remove(text, self.clean).split())
        _check_text(text, key)
        return text.lower() if self.lower else text

    def _listed(self, sample: Sample) -> tuple[str, list[str]]:
        found = _find(sample, self.keys or sample.caption_keys)
        key = next(iter(found))
        return key, self._candidates(key, found[key][1])

    def _candidates(self, key: str, value: Any) -> list[str]:
        texts = value if isinstance(value, list) else [value]
        if self.class_names:
            texts = [self._name(text, key) for text in texts]
        if not all(isinstance(text, str) for text in texts):
            hint = "; data.captions.class_names turns numbers into names" if isinstance(value, int) else ""
            raise BadSampleError("bad_caption", f"'{key}' is neither a text nor a list of texts{hint}")
        if self.lines:
            texts = [line for text in texts for line in text.splitlines() if line.strip()]
        if not texts:
            raise BadSampleError("empty_caption", f"'{key}' is empty")
        return texts

    def _name(self, text: Any, key: str) -> Any:
        """Return the name of a class where its number stands; leave anything else."""
        number = text.strip() if isinstance(text, str) else str(text)
        if not (number.isascii() and number.isdigit()):
            return text
        if len(number) > MOST_DIGITS or int(number) >= len(self.class_names):
            raise BadSampleError(
                "bad_caption", f"'{key}' is {number[:MOST_DIGITS]}, there are {len(self.class_names)} class names"
            )
        return self.class_names[int(number)]

    def _clean(self, text: str, key: str) -> str:
        text = self.tidy(text, key)
        if not any(letter.isprintable() and not letter.isspace() for letter in text):
            raise BadSampleError("empty_caption", f"'{key}' is empty")
        return text

    def _split(self, text: str) -> list[str]:
        if self.separator is None:
            return [text]
        return [piece.strip() for piece in text.split(self.separator) if piece.strip()] or [text]

    def _worded(self, words: str, pieces: list[str], draws: Draws) -> Caption:
        text = words
        if self.templates and draws.uniform() < self.template_probability:
            text = PLACE.sub(lambda _: words, draws.choice(self.templates))
        return Caption(text, (pieces[0] if self.identity == "first" else words).lower())

    def _reword(self, whole: str, pieces: list[str], draws: Draws, *, keep_first: bool = False) -> str:
        wording = list(self.wording)[draws.weighted(list(self.wording.values()))]
        if self.separator is None or wording == "all":
            return whole
        first, others = pieces[0], pieces[1:]
        if wording == "first" or not others or (wording == "one" and keep_first):
            return first
        if wording == "one":
            return draws.choice(others)
        draws.shuffle(others)
        chosen = [first, *others[: 1 + draws.integer(len(others))]]
        draws.shuffle(chosen)
        return f"{self.separator.strip()} ".join(chosen)


def _find(sample: Sample, keys: Mapping[str, float]) -> dict[str, tuple[float, Any]]:
    """Return weight and value of the keys that the sample has."""
    found: dict[str, tuple[float, Any]] = {}
    records: dict[str, dict[str, Any]] = {}
    for key, weight in keys.items():
        for value in values_under(sample, key, records):
            found[key] = weight, value
    if not found:
        inside = "".join(f"; {name} holds {', '.join(list(record)[:10])}" for name, record in records.items())
        raise BadSampleError("missing_caption", f"none of {', '.join(keys)} among {', '.join(sample.members)}{inside}")
    return found


def _check_text(text: str, key: str) -> None:
    """Refuse what is no caption: halves of surrogate pairs, whole books, JSON documents, and lists of Python."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadSampleError("bad_caption", f"'{key}': {error}") from error
    if size > LARGEST_CAPTION:
        raise BadSampleError("bad_caption", f"'{key}': {size} bytes, more than {LARGEST_CAPTION}")
    if text.startswith(("{", "[")) and _is_json(text):
        raise BadSampleError("bad_caption", f"'{key}' is a JSON document: name it NAME.json, and a key in it")
    if text.startswith(("{", "[")) and text.rstrip().endswith(("}", "]")) and _is_python(text):
        raise BadSampleError("bad_caption", f"'{key}' spells out a list or mapping of Python: write it as JSON")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_python(text: str) -> bool:
    """Whether a text is what Python, or NumPy, prints of a list or a mapping."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # over odd escapes
            ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def _lines(name: str, given: tuple[str, ...] | str) -> tuple[str, ...]:
    """Return what a list says, or the lines of a file."""
    if not isinstance(given, str):
        return given
    try:
        noun = "eval" if given.startswith("eval/") else "data"
        lines = find_file(noun, given).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"data.captions.{name}: {given}: {error}") from error
    blank = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if blank is not None and name == "class_names":
        raise RecipeError(f"data.captions.{name}: {given}: line {blank} is blank; lines are counted as classes")
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise RecipeError(f"data.captions.{name}: {given} is empty")
    return found


def _check_weights(name: str, weights: Mapping[Any, float] | None) -> None:
    if weights is not None and not (weights and min(weights.values()) >= 0 and 0 < sum(weights.values()) < math.inf):
        raise RecipeError(f"data.captions.{name}: weights must not be negative, and one must be larger than 0")
