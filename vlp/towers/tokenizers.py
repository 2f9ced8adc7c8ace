"""Tokenizers: the ids of open_clip's tokenizers, cut to the longest text of the batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import open_clip
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vlp.ground.tokenizing import Tokenizer
from vlp.ground.types import RecipeError
from vlp.towers.byte_pairs import merge

# What is left of open_clip's cleaning where nothing needs repair, apart from white space.
PLAIN_CLEANING: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "whitespace": str,
    "canonicalize": open_clip.tokenizer.canonicalize_text,
}
WHOLE = ("PreTrainedTokenizerFast", "TokenizersBackend")
SPECIAL = ("<start_of_text>", "<end_of_text>")
# 100,000 words of at most 40 letters are some 30 MB.
MOST_KNOWN = 100_000
LONGEST_KNOWN = 40


class PaddingTokenizer(Tokenizer, Protocol):
    """A tokenizer that says which id fills short texts, and which is its highest."""

    pad_id: int
    highest_id: int

    def clean(self, text: str) -> str: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class ClipTokenizer:
    """CLIP's byte pairs; ids equal those of `open_clip.get_tokenizer`.

    Words that were seen before are looked up, which takes 3 us for a caption of 13 plain English words; one that needs
    repair takes 50 us, of which ftfy has 40.

    Args:
        context_length: Tokens per text; longer texts are cut and keep their end token.
        clean: open_clip's text cleaning: `lower`, `whitespace` or `canonicalize`.
    """

    pad_id = 0

    def __init__(self, *, context_length: int, clean: str = "lower"):
        self.context_length = context_length
        self.cleaning = clean
        self.words = _byte_pairs(clean)
        self.highest_id = max(self.words.encoder.values())
        self._known: dict[str, tuple[int, ...]] = {}

    def __reduce__(self) -> tuple[Callable[[], ClipTokenizer], tuple[()]]:
        # another process reads the vocabulary faster than it receives it
        return partial(ClipTokenizer, context_length=self.context_length, clean=self.cleaning), ()

    def clean(self, text: str) -> str:
        """Return what is left of a text before it is split into tokens."""
        return clean_text(text, self.cleaning)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words that tokens between start and end stand for."""
        return " ".join(self.words.decode(ids).split())

    def __call__(self, texts: Sequence[str]) -> tuple[Int64[Tensor, "n l"], Int64[Tensor, " n"]]:
        start, end, room = self.words.sot_token_id, self.words.eot_token_id, self.context_length - 2
        return pad_rows([[start, *self._encode(text, room), end] for text in texts], self.pad_id)

    def _encode(self, text: str, room: int) -> list[int]:
        """Return the first `room` ids; no token reaches across a space, so words can be looked up one by one."""
        ids: list[int] = []
        for word in self.clean(text).split():
            ids += self._known.get(word) or self._learn(word)
            if len(ids) >= room:
                break
        return ids[:room]

    def _learn(self, word: str) -> tuple[int, ...]:
        words = self.words
        pieces = ("".join(map(words.byte_encoder.__getitem__, piece.encode())) for piece in words.pat.findall(word))
        tokens = chain.from_iterable([p] if p in SPECIAL else merge(p, words.bpe_ranks) for p in pieces)
        ids = tuple(words.encoder[token] for token in tokens)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        if len(word) <= LONGEST_KNOWN:
            self._known[word] = ids
        return ids


def clean_text(text: str, cleaning: str) -> str:
    """Clean as open_clip does, without ftfy and html.unescape where they would return the text as it is."""
    if is_plain(text):
        return " ".join(PLAIN_CLEANING[cleaning](text).split())
    return open_clip.tokenizer.get_clean_fn(cleaning)(text)


def is_plain(text: str) -> bool:
    """Say whether nothing of a text could need repair: printable ASCII without entities."""
    return text.isascii() and text.isprintable() and "&" not in text


class TransformersTokenizer:
    """A transformers tokenizer behind open_clip's text cleaning; ids equal those of open_clip's `HFTokenizer`.

    Args:
        words: What splits clean texts.
        name: What to call it.
        context_length: Tokens per text; longer texts are cut and keep their end token.
        clean: open_clip's text cleaning: `lower`, `whitespace` or `canonicalize`.
        strip_sep_token: Replace separator tokens by zeros.

    Raises:
        RecipeError: It pads on the left or not at all.
    """

    def __init__(
        self,
        words: PreTrainedTokenizerBase,
        *,
        name: str,
        context_length: int,
        clean: str = "whitespace",
        strip_sep_token: bool = False,
    ):
        self.words: Any = words
        self.name = name
        self.cleaning = clean
        self.context_length = context_length
        self.strip_sep_token = strip_sep_token
        if self.words.pad_token_id is None or self.words.padding_side != "right":
            raise RecipeError(
                f"the tokenizer '{name}' does not pad on the right: the towers read captions from the left"
            )
        self.pad_id = self.words.pad_token_id
        self.highest_id = max(self.words.get_vocab().values())

    def clean(self, text: str) -> str:
        """Return what is left of a text before it is split into tokens."""
        return clean_text(text, self.cleaning)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words that tokens between start and end stand for."""
        return " ".join(str(self.words.decode(list(ids), skip_special_tokens=True)).split())

    def __call__(self, texts: Sequence[str]) -> tuple[Int64[Tensor, "n l"], Int64[Tensor, " n"]]:
        ids = self.words(
            [self.clean(text) for text in texts], truncation=True, max_length=self.context_length
        ).input_ids
        tokens, lengths = pad_rows(ids, self.pad_id)
        if self.strip_sep_token:
            tokens = tokens.masked_fill(tokens == self.words.sep_token_id, 0)
        return tokens, lengths


def load_words(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of transformers at a hub id or in a folder.

    Raises:
        RecipeError: There is none.
    """
    reader = PreTrainedTokenizerFast if _is_whole(Path(name).expanduser()) else AutoTokenizer
    try:
        words: PreTrainedTokenizerBase = reader.from_pretrained(name)
    except Exception as error:  # transformers raises its own, the hub's and the network's errors
        raise RecipeError(
            f"cannot load the tokenizer '{name}': {error}; set text.tokenizer to a folder that has it"
        ) from error
    return words


def _is_whole(folder: Path) -> bool:
    """Whether a folder says that its `tokenizer.json` is all there is to a tokenizer.

    Beside a SigLIP 2, transformers 5 would read it as `Siglip2Tokenizer` nevertheless, which keeps the words alone.
    """
    try:
        told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (folder / "tokenizer.json").is_file() and told.get("tokenizer_class") in WHOLE


@cache
def _byte_pairs(clean: str) -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(clean=clean)


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> tuple[Int64[Tensor, "n l"], Int64[Tensor, " n"]]:
    """Return the rows as one tensor as wide as the longest, and their lengths."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    width = int(lengths.max(initial=0))
    tokens = np.full((len(rows), width), fill, dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    tokens[np.arange(width) < lengths[:, None]] = flat
    return torch.from_numpy(tokens), torch.from_numpy(lengths)


def frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that stand in front of every caption, such as a start token, and those behind."""
    tokens, lengths = tokenizer(["", "a"])
    empty, word = (row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True))
    front = next((place for place, id_ in enumerate(empty) if id_ != word[place]), len(empty))
    return empty[:front], empty[front:]


def tokenizer_for(text_cfg: Mapping[str, Any]) -> PaddingTokenizer:
    """Return the tokenizer that an open_clip `text_cfg` asks for.

    Raises:
        RecipeError: The tokenizer cannot be loaded, or draws tokens at random.
    """
    settings = dict(text_cfg.get("tokenizer_kwargs") or {})
    context_length = text_cfg.get("context_length", 77)
    if settings.pop("reduction_mask", "") or text_cfg.get("tokenizer_mode"):
        raise RecipeError(
            "this open_clip configuration reduces captions at random or in a mode of its own (tokenizer_kwargs."
            "reduction_mask, tokenizer_mode), which training does not repeat exactly: remove the entry"
        )
    name = text_cfg.get("hf_tokenizer_name")
    unknown = set(settings) - ({"clean", "strip_sep_token"} if name else {"clean"})
    if unknown:
        raise RecipeError(f"text tokenizer_kwargs {sorted(unknown)} are not supported")
    if settings.get("clean", "lower") not in PLAIN_CLEANING:
        raise RecipeError(f"text tokenizer_kwargs.clean: '{settings['clean']}' is none of {', '.join(PLAIN_CLEANING)}")
    if name:
        return TransformersTokenizer(load_words(name), name=name, context_length=context_length, **settings)
    return ClipTokenizer(context_length=context_length, **settings)
