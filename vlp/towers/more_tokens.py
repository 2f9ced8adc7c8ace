"""Tokenizers that get further tokens, as tokenizers of transformers, which any of them can be saved as."""

from __future__ import annotations

import copy
import itertools

from tokenizers import processors

from vlp.ground.types import RecipeError
from vlp.towers.clip_words import clip_words
from vlp.towers.tokenizers import ClipTokenizer, PaddingTokenizer, TransformersTokenizer, frame

CONTEXT = "<context_{}>"


def copied(tokenizer: PaddingTokenizer) -> TransformersTokenizer:
    """Return a tokenizer of transformers that gives the same ids, for somebody to change.

    It fills short texts with CLIP's end token where the other does with zeros.

    Raises:
        RecipeError: It is one of Python alone, or splits texts in a way of its own.
    """
    if isinstance(tokenizer, ClipTokenizer):
        return TransformersTokenizer(
            clip_words(tokenizer), name="CLIP", context_length=tokenizer.context_length, clean=tokenizer.cleaning
        )
    if not isinstance(tokenizer, TransformersTokenizer) or not tokenizer.words.is_fast:
        name = getattr(tokenizer, "name", type(tokenizer).__name__)
        raise RecipeError(f"the tokenizer '{name}' has no tokenizer.json, and takes no further tokens")
    return TransformersTokenizer(
        copy.deepcopy(tokenizer.words),
        name=tokenizer.name,
        context_length=tokenizer.context_length,
        clean=tokenizer.cleaning,
        strip_sep_token=tokenizer.strip_sep_token,
    )


def put_into_every_text(tokenizer: PaddingTokenizer, count: int, room: int) -> tuple[TransformersTokenizer, list[int]]:
    """Return a tokenizer that puts so many new tokens behind the start token of every text, and their ids.

    Args:
        room: Tokens per text, the new ones among them.

    Raises:
        RecipeError: It takes no further tokens.
    """
    grown = copied(tokenizer)
    front, back = frame(tokenizer)
    known = grown.words.get_vocab()
    names = (CONTEXT.format(number) for number in itertools.count())
    new = list(itertools.islice((name for name in names if name not in known), count))
    grown.words.add_tokens(new, special_tokens=True)
    ids: list[int] = grown.words.convert_tokens_to_ids(new)
    ahead, behind = ([*zip(grown.words.convert_ids_to_tokens(part), part, strict=True)] for part in (front, back))
    ahead[1:1] = zip(new, ids, strict=True)  # in front where there is no start token
    grown.words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*(token for token, _ in ahead), "$A", *(token for token, _ in behind)],
        special_tokens=list(dict.fromkeys([*ahead, *behind])),
    )
    grown.context_length = room
    grown.highest_id = max(grown.highest_id, *ids)
    return grown, ids
