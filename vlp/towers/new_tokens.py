"""Words of a domain that become tokens of a pretrained tokenizer, each of which begins as the mean of its pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from tokenizers import AddedToken
from torch import Tensor

from vlp.ground.types import RecipeError
from vlp.towers.more_tokens import copied
from vlp.towers.tokenizers import PaddingTokenizer, TransformersTokenizer, frame

BEFORE = "a"  # words have the pieces that they have within a caption: some tokenizers mark what follows a space


@dataclass(frozen=True)
class NewTokens:
    """What a tokenizer has learned.

    Args:
        tokenizer: It, with all that it knew.
        given: The words as they were given.
        words: Those that became tokens.
        ids: Of these.
        pieces: Ids that each of them was read as before.
    """

    tokenizer: TransformersTokenizer
    given: tuple[str, ...]
    words: tuple[str, ...]
    ids: tuple[int, ...]
    pieces: tuple[tuple[int, ...], ...]

    def means(self, table: Float[Tensor, "v w"]) -> Float[Tensor, "n w"]:
        """Return the row that each word begins with: the mean of its pieces' rows.

        Gee et al. 2022, "fast vocabulary transfer" (arXiv:2402.09977).
        """
        return torch.stack([table[list(ids)].float().mean(0) for ids in self.pieces]).to(table.dtype)

    def check_begins_with(self, others: Sequence[str], source: str) -> int:
        """Return how many of the tokens other weights have already.

        Args:
            others: The words that they were given.
            source: What to call them.

        Raises:
            RecipeError: Not the first of these words.
        """
        if self.given[: len(others)] != tuple(others):
            raise RecipeError(
                f"text.new_tokens: '{source}' was trained with {len(others)} words of its own: begin the list with "
                "them, as they stand in its recipe.lock.yaml, or export it and start from there"
            )
        return sum(word in self.words for word in map(self.tokenizer.clean, others))

    def __str__(self) -> str:
        mean = sum(map(len, self.pieces)) / len(self.pieces)
        known = len(self.given) - len(self.words)
        rest = f"; {known} of the words given were tokens already" if known else ""
        return f"text tower: {len(self.words)} words became tokens, which had {mean:.1f} pieces on average{rest}"


def learn_words(tokenizer: PaddingTokenizer, given: Sequence[str], *, sees_padding: bool) -> NewTokens:
    """Teach whole words to a tokenizer: a new one is read as one token, wherever no letter or digit touches it.

    Args:
        given: Words, or several words in a row; those that are one token already are left out.
        sees_padding: Whether the tower reads what fills short captions.

    Raises:
        RecipeError: A word stands there twice or has no letters, all are tokens already, or the tokenizer cannot learn.
    """
    try:
        grown = copied(tokenizer)
    except RecipeError as error:
        raise RecipeError(f"text.new_tokens: {error}") from error
    if sees_padding and grown.pad_id != tokenizer.pad_id:
        raise RecipeError(
            "text.new_tokens: the text tower sees the zeros that CLIP's own tokenizer fills captions with, and a "
            "tokenizer that learns has none: choose a tokenizer of transformers, or a causal tower"
        )
    pieces = _pieces(tokenizer, _cleaned(tokenizer, given))
    unknown = grown.words.unk_token_id
    new = {word: ids for word, ids in pieces.items() if len(ids) > 1 or ids[0] == unknown}
    if not new:
        raise RecipeError(f"text.new_tokens: all {len(pieces)} words are tokens already: leave them out")
    grown.words.add_tokens([AddedToken(word, single_word=True, lstrip=True, normalized=True) for word in new])
    ids = tuple(grown.words.convert_tokens_to_ids(list(new)))
    grown.highest_id = max(grown.highest_id, *ids)
    for word, read in _pieces(grown, list(new)).items():
        if len(read) > 1:
            raise RecipeError(f"text.new_tokens: '{word}' cannot be a token of this tokenizer: leave it out")
    return NewTokens(grown, tuple(given), tuple(new), ids, tuple(new.values()))


def read_words(given: tuple[str, ...] | str) -> tuple[str, ...]:
    """Return words that are given by themselves, or in a file with one on each line.

    Raises:
        RecipeError: It cannot be read, or is empty.
    """
    if not isinstance(given, str):
        return given
    try:
        lines = Path(given).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"text.new_tokens: '{given}' is no file of words ({error}); write words as a list") from error
    words = tuple(line.strip() for line in lines if line.strip())
    if not words:
        raise RecipeError(f"text.new_tokens: '{given}' has no words")
    return words


def _cleaned(tokenizer: PaddingTokenizer, given: Sequence[str]) -> list[str]:
    """Return words as they stand in captions that were cleaned."""
    found: dict[str, str] = {}
    for word in given:
        clean = tokenizer.clean(word)
        if not clean:
            raise RecipeError(f"text.new_tokens: nothing is left of '{word}' once it is cleaned: leave it out")
        if clean in found:
            raise RecipeError(f"text.new_tokens: '{word}' is '{found[clean]}' over again: leave one out")
        found[clean] = word
    return list(found)


def _pieces(tokenizer: PaddingTokenizer, words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the ids that each word is read as within a caption."""
    front, back = frame(tokenizer)
    tokens, lengths = tokenizer([BEFORE, *(f"{BEFORE} {word}" for word in words)])
    rows = [row[len(front) : length - len(back)] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    return {word: tuple(row[len(rows[0]) :]) for word, row in zip(words, rows[1:], strict=True)}
