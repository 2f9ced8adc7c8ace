"""Small batches, and short ways to the value and the gradients of one term."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vlp.objectives.base import Objective, Term
from vlp.pairs import Pairs
from vlp.types import Embeddings


def unit(size: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw unit-norm rows."""
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(size, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def draw_leaves(size: int, dim: int = 6, scale: float = 10.0, bias: float = -5.0, dtype: torch.dtype = torch.float64):
    """Draw what gets a gradient: images, texts, scale, bias."""
    numbers = [torch.tensor(number, dtype=dtype) for number in (scale, bias)]
    return [leaf.requires_grad_() for leaf in (unit(size, dim, 1, dtype), unit(size, dim, 2, dtype), *numbers)]


def pairs_of(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float = 10.0,
    bias: Tensor | float = -5.0,
    caption_ids: Tensor | None = None,
    reference: Tensor | None = None,
    ids: Tensor | None = None,
) -> Pairs:
    """Make a batch out of embeddings; captions are all different unless said otherwise."""
    ids = torch.arange(len(image)) if ids is None else ids
    numbers = [torch.as_tensor(number, dtype=image.dtype) for number in (scale, bias)]
    embeddings = Embeddings(image, text, *numbers, reference=reference)
    return Pairs(embeddings, ids, torch.arange(len(image)) if caption_ids is None else caption_ids)


def share_of(term: Term, pairs: Pairs) -> Tensor:
    """Return the loss of one term of weight 1."""
    loss, _ = Objective({"term": (term, one)})(pairs, 0)
    return loss


def one(step: int) -> float:
    """Weigh a term by 1 at every step."""
    return 1.0


def value_of(term: Term, image: Tensor, text: Tensor, **more) -> float:
    """Return the value of one term."""
    return share_of(term, pairs_of(image, text, **more)).item()


def gradients_of(term: Term, leaves: list[Tensor], **more) -> list[Tensor]:
    """Return the gradients of images, texts, scale and bias; zeros where a term has none."""
    found = torch.autograd.grad(share_of(term, pairs_of(*leaves, **more)), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]
