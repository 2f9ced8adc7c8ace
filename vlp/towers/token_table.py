"""The embeddings of tokens in a text tower, and more of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import TextTransformer
from torch import Tensor, nn


def token_table(text: Any) -> nn.Embedding:
    """Return the table of a text tower, of open_clip or around an encoder of transformers."""
    table: nn.Embedding = (
        text.transformer.get_input_embeddings() if isinstance(text, HFTextEncoder) else text.token_embedding
    )
    return table


def table_name(text: nn.Module) -> str:
    """Return what the weights of a text tower call its table."""
    table = token_table(text).weight
    return next(name for name, parameter in text.named_parameters() if parameter is table)


def grown(table: Float[Tensor, "v w"], ids: Sequence[int], rows: Float[Tensor, "n w"]) -> Float[Tensor, "u w"]:
    """Return a table with some rows more, or others where ids have one already that nothing has used."""
    found = torch.cat([table, table.new_zeros(max(0, max(ids, default=0) + 1 - len(table)), table.shape[1])])
    found[list(ids)] = rows.to(table.dtype)
    return found


@torch.no_grad()
def grow(text: Any, ids: Sequence[int], rows: Float[Tensor, "n w"]) -> None:
    """Give a text tower rows for further ids; all others stay what they are, bit for bit."""
    table = token_table(text)
    weight = nn.Parameter(grown(table.weight.detach(), ids, rows), requires_grad=table.weight.requires_grad)
    table.weight, table.num_embeddings = weight, len(weight)
    text.vocab_size = max(text.vocab_size, len(weight))
    if isinstance(text, HFTextEncoder):
        for config in (text.config, text.transformer.config):
            config.vocab_size = text.vocab_size


def read_at_end(text: Any, end: Sequence[int]) -> dict[str, Any]:
    """Let a tower that reads the token of the highest id read the end of a caption; return what its configuration says.

    Args:
        end: Ids that stand behind every caption.
    """
    if not isinstance(text, TextTransformer):
        return {}
    if text.pool_type == "argmax":
        text.pool_type, text.eos_id = "eos", end[-1]
    return {"vocab_size": text.vocab_size, "pool_type": text.pool_type, "eos_id": text.eos_id}
