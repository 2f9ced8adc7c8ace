"""Tokenizers for transformers, as close to open_clip's text cleaning as their format allows."""

from __future__ import annotations

import copy
import json
import re
import string
from collections.abc import Callable
from pathlib import Path

from tokenizers import Regex, normalizers
from transformers import PreTrainedTokenizerFast

from vlp.towers.clip_words import clip_words
from vlp.towers.tokenizers import ClipTokenizer, TransformersTokenizer

# what ftfy and html.unescape mend most often; wrongly decoded text and rare entities stay as they are
ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&#x27;": "'", "&apos;": "'", "&nbsp;": " "}
LIGATURES = {
    "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufb06": "st",
    "\u0132": "IJ", "\u0133": "ij",
}  # fmt: skip
PATTERNS = {
    r"[\u02bc\u2018-\u201b]": "'",
    r"[\u201c-\u201f]": '"',
    r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff]": "",
    r"\s+": " ",
}


def fast_tokenizer(tokenizer: ClipTokenizer) -> PreTrainedTokenizerFast:
    """Return the tokenizer's twin in transformers, which cleans texts by itself."""
    words = clip_words(tokenizer)
    words.model_max_length = tokenizer.context_length
    words.backend_tokenizer.normalizer = normalizers.Sequence([*mending(), normalizers.Lowercase()])
    return words


def cleaning_tokenizer(tokenizer: TransformersTokenizer) -> PreTrainedTokenizerFast:
    """Return a copy of a transformers tokenizer that cleans texts by itself, and always fills up with its padding."""
    words = copy.deepcopy(tokenizer.words)
    words.model_max_length = tokenizer.context_length
    words.model_input_names = ["input_ids"]  # towers that see the padding were trained without a mask
    own = words.backend_tokenizer.normalizer
    steps = [*mending(), *CLEANING[tokenizer.cleaning](), *([own] if own else [])]
    words.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    return words


def mending() -> list[normalizers.Normalizer]:
    """Return what stands for ftfy and `html.unescape`."""
    first = normalizers.Replace(Regex("&(?:amp;)+"), "&")
    exact = [normalizers.Replace(before, after) for before, after in {**ENTITIES, **LIGATURES}.items()]
    rest = [normalizers.Replace(Regex(pattern), after) for pattern, after in PATTERNS.items()]
    return [first, *exact, *rest, normalizers.NFC()]


def _canonical() -> list[normalizers.Normalizer]:
    without = normalizers.Replace(Regex("[" + re.escape(string.punctuation) + "]"), "")
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    return [normalizers.Replace("_", " "), without, normalizers.Lowercase(), spaces, normalizers.Strip()]


CLEANING: dict[str, Callable[[], list[normalizers.Normalizer]]] = {
    "whitespace": lambda: [normalizers.Strip()],
    "lower": lambda: [normalizers.Strip(), normalizers.Lowercase()],
    "canonicalize": _canonical,
}


def settle_config(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Make every reader take `tokenizer.json` as it is.

    CLIPTokenizer would replace the normalizer by its own, and readers before transformers 5 do not know the name
    that transformers 5 writes. Transformers 5 also leaves out the input names.
    """
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["model_input_names"] = tokenizer.model_input_names
    for how_it_was_loaded in ("is_local", "local_files_only"):
        config.pop(how_it_was_loaded, None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
