"""The embeddings of the last batches, as further negatives or for assignments; alike on every process."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.objectives.shared.negative_sums import NOTHING
from vlp.pairs import Pairs

PIECE = 2**25  # cosines that exist at once: 128 MB
EMPTY = -1  # the id of a place that nothing has reached
IMAGES, TEXTS = 0, 1


class FeatureQueue(nn.Module):
    """First in, first out; a sample's own past is no negative of it.

    He et al. 2020 (arXiv:1911.05722), who fill the places with noise at first; here they count for nothing until a
    batch has reached them.

    Args:
        size: Embeddings of each modality that are kept.
    """

    rows: Tensor
    ids: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def create(self, embed_dim: int) -> None:
        """Make room for embeddings of this width."""
        self.register_buffer("rows", torch.zeros(2, self.size, embed_dim))
        self.register_buffer("ids", torch.full((self.size,), EMPTY))

    def of(self, modality: int, dtype: torch.dtype) -> Float[Tensor, "q d"]:
        """Return what is kept of images (0) or texts (1), the oldest first."""
        return self.rows[modality].to(dtype)

    @property
    def is_filled(self) -> Bool[Tensor, " q"]:
        """Which places hold an embedding."""
        return self.ids != EMPTY

    @torch.no_grad()
    def push(self, pairs: Pairs) -> None:
        """Take in the leading embeddings of the whole batch, and drop as many of the oldest."""
        newest = torch.stack([pairs.side(name).everyone for name in ("image", "text")]).to(self.rows.dtype)
        # new tensors: the backward pass may still hold the old ones
        self.rows = torch.cat([self.rows, newest], dim=1)[:, -self.size :].contiguous()
        self.ids = torch.cat([self.ids, pairs.everyones_ids])[-self.size :].contiguous()

    def log_sum(
        self,
        pairs: Pairs,
        anchors: Float[Tensor, "n d"],
        modality: int,
        *,
        blends: tuple[Float[Tensor, "q d"], Int64[Tensor, " q"]] | None = None,
    ) -> Float[Tensor, " n"]:
        """Return the log-sum-exp of each local anchor's logits with what is kept; `NOTHING` where that is nothing.

        Args:
            blends: What to look at in place of the kept rows, place by place, and whom else each of them holds.
        """
        kept, partners = (self.of(modality, anchors.dtype), self.ids) if blends is None else blends
        ids, is_filled = self.ids, self.is_filled

        def piece(some: Tensor, own: Tensor, scale: Tensor) -> Tensor:
            own = own[:, None]
            is_none = (ids == own) | (partners == own) | ~is_filled
            return (scale * (some @ kept.T)).masked_fill(is_none, NOTHING).logsumexp(dim=1)

        size = max(1, PIECE // self.size)
        parts = zip(anchors.split(size), pairs.ids.split(size), strict=True)
        sums = [checkpoint(piece, *part, pairs.scale, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(sums).clamp(min=NOTHING)

    @torch.no_grad()
    def hardest(
        self, pairs: Pairs, anchors: Float[Tensor, "n d"], modality: int, count: int
    ) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
        """Return cosines of each local anchor with the nearest that are kept, falling, and their places.

        Where there are fewer, cosines are minus infinity.
        """
        kept, found = self.of(modality, anchors.dtype), []
        size = max(1, PIECE // self.size)
        for some, own in zip(anchors.split(size), pairs.ids.split(size), strict=True):
            cosines = (some @ kept.T).masked_fill((self.ids == own[:, None]) | ~self.is_filled, -torch.inf)
            found.append(cosines.topk(min(count, self.size), dim=1))
        return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
