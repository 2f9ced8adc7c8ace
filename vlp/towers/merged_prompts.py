"""Learned tokens of captions as tokens of the vocabulary, which other libraries have too."""

from __future__ import annotations

import contextlib

from torch import nn

from vlp.ground.types import RecipeError
from vlp.towers.dual import DualEncoder
from vlp.towers.learned_tokens import PROMPTS, prompted
from vlp.towers.more_tokens import put_into_every_text
from vlp.towers.text import can_cut
from vlp.towers.token_table import grow, token_table


def merge_prompts(model: DualEncoder) -> None:
    """Let the tokenizer put learned tokens into every caption, as tokens like others; embeddings stay what they are.

    Those of images have no such form, and stay. So do those of captions where the tokenizer takes no further tokens, or
    the tower sees the zeros that only CLIP's own fills captions with.
    """
    text = model.core.text
    prompts = prompted(text)
    if prompts is None:
        return
    with contextlib.suppress(RecipeError):
        tokenizer, ids = put_into_every_text(model.tokenizer, len(prompts), model.context_length)
        if not can_cut(text) and tokenizer.pad_id != model.tokenizer.pad_id:
            return
        table = token_table(text)
        delattr(table, PROMPTS)
        table.__class__ = nn.Embedding
        grow(text, ids, prompts)
        model.take_tokenizer(tokenizer)
