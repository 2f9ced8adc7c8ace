"""A small decoder writes each caption from the embedding of its image."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vlp.ground.types import send
from vlp.objectives.base import Term, terms
from vlp.pairs import Pairs, Stats, at_least_float32

PIECE = 32  # captions whose logits exist at once: half a GB for 77 tokens of 49408


@terms.register("captioning")
class CaptioningTerm(Term):
    """Predict each token of a caption from its image and the tokens before it.

    CoCa, Yu et al. 2022, the captioning loss (arXiv:2205.01917; weight 2 there, 1 in COSMO, arXiv:2401.00849), with a
    decoder of its own that sees the image's embedding alone: no image tokens, and no share of the text tower. A
    companion of a contrastive term; it teaches the image tower only.

    Formula: - mean over all tokens t of all captions i of log p(w_it | x_i, w_i1 ... w_i(t-1)); padding left out

    Args:
        vocab_size: Of the text tower's tokenizer.
        context_length: Longest caption in tokens.
        width: Of the decoder; CoCa's has that of the text tower.
        layers: Of the decoder.
        heads: Of its attention.
    """

    needs = frozenset({"tokens"})
    discriminates = False

    def __init__(
        self,
        *,
        vocab_size: int = 49_408,
        context_length: int = 77,
        width: int = 128,
        layers: int = 1,
        heads: int = 4,
    ):
        super().__init__()
        self.sizes = (vocab_size, context_length, width, layers, heads)

    def create(self, embed_dim: int, /) -> None:
        self.decoder: nn.Module = CaptionDecoder(embed_dim, *self.sizes)
        """Any module that is called like `Decoder.forward` may take its place."""

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        tokens, lengths = pairs.embeddings.tokens, pairs.embeddings.lengths
        assert tokens is not None, "the objective checks what terms need"
        assert lengths is not None, "tokens come with lengths"
        lengths = send(lengths, tokens.device)
        pieces = zip(*(rows.split(PIECE) for rows in (pairs.image, tokens, lengths)), strict=True)
        # logits are many times larger than what they are made of: made again in the backward pass
        miss = partial(self._miss, pairs)
        misses = [checkpoint(miss, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
        return torch.stack(misses).sum() / pairs.total(lengths.sum())

    def _miss(
        self, pairs: Pairs, image: Float[Tensor, "n d"], tokens: Int64[Tensor, "n l"], lengths: Int64[Tensor, " n"]
    ) -> Tensor:
        """Return the sum of -log p over the tokens that are no padding."""
        with pairs.own_network():
            logits = self.decoder(image, tokens)
        logits = at_least_float32(logits)
        misses = functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        is_real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return (misses * is_real.flatten()).sum()


class CaptionDecoder(nn.Module):
    """A causal transformer whose first token is the image; input and output share the tokens' vectors."""

    def __init__(self, embed_dim: int, vocab_size: int, context_length: int, width: int, layers: int, heads: int):
        super().__init__()
        self.image = nn.Linear(embed_dim, width)
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(0.01 * torch.randn(context_length, width))
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Float[Tensor, "n d"], tokens: Int64[Tensor, "n l"]) -> Float[Tensor, "n l vocab"]:
        """Return the logits of every token; those of one depend on the image and on earlier tokens alone.

        Raises:
            ValueError: A caption is longer than `context_length`.
        """
        length = tokens.shape[1]
        if length > len(self.positions):
            raise ValueError(
                f"captions have {length} tokens, the decoder takes {len(self.positions)}: set context_length"
            )
        first = self.image(image.to(self.positions.dtype))[:, None]
        rows = torch.cat([first, self.tokens(tokens[:, :-1])], dim=1) + self.positions[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=rows.device, dtype=rows.dtype)
        for layer in self.layers:
            rows = layer(rows, src_mask=mask, is_causal=True)
        logits: Tensor = self.norm(rows) @ self.tokens.weight.T
        return logits
