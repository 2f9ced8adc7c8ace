"""Small batches, and short ways to the value and the gradients of one term."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlp.ground import dist
from vlp.ground.types import Embeddings, Teacher
from vlp.objectives.base import Objective, Term
from vlp.pairs import Pairs

DIM = 6
VOCABULARY = 20


def unit(size: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw unit-norm rows."""
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(size, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def draw_leaves(size: int, dim: int = DIM, scale: float = 10.0, bias: float = -5.0, dtype: torch.dtype = torch.float64):
    """Draw what gets a gradient: images, texts, scale, bias."""
    numbers = [torch.tensor(number, dtype=dtype) for number in (scale, bias)]
    return [leaf.requires_grad_() for leaf in (unit(size, dim, 1, dtype), unit(size, dim, 2, dtype), *numbers)]


def extras(size: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Return all that any term may need beyond two embeddings; a few captions are equal."""
    return {
        "caption_ids": torch.arange(size) % max(1, size - 3),
        "ids": 3 * torch.arange(size) + 1,
        "reference": unit(size, 4, 9, dtype),
        "teacher": Teacher(unit(size, DIM, 11, dtype), unit(size, DIM, 12, dtype)),
        "negatives": torch.stack([unit(size, DIM, 13, dtype), unit(size, DIM, 14, dtype)], dim=1),
        "replayed": torch.arange(size) % 3 == 0,
        "caption_losses": (1.5 + torch.arange(size, dtype=dtype) % 5).requires_grad_(),
        "caption_words": 1 + torch.arange(size) % 3,
        "region_losses": (0.5 + torch.arange(4 * size, dtype=dtype).view(size, 4) % 7).requires_grad_(),
        "region_words": 1 + torch.arange(4 * size).view(size, 4) % 5,
        "tokens": torch.randint(VOCABULARY, (size, 4), generator=torch.Generator().manual_seed(31)),
        "token_counts": 2 + torch.arange(size) % 3,
        "negative_tokens": torch.randint(VOCABULARY, (size, 2, 4), generator=torch.Generator().manual_seed(32)),
        "negative_token_counts": 2 + torch.arange(2 * size).view(size, 2) % 3,
        "image_maps": tuple(_maps(size, seed, dtype).requires_grad_() for seed in (21, 22)),
        "taught_maps": tuple(_maps(size, seed, dtype) for seed in (23, 24)),
        "hidden_patches": unit(3 * size, DIM, 27, dtype).view(size, 3, DIM).requires_grad_(),
        "pixel_changes": (0.25 + torch.arange(size, dtype=dtype) % 4).requires_grad_(),
        "taught_patches": unit(3 * size, DIM, 28, dtype).view(size, 3, DIM),
        "image_cuts": tuple(_cuts(size, seed) for seed in (25, 26)),
    }


def _maps(size: int, seed: int, dtype: torch.dtype) -> Tensor:
    return unit(6 * size, DIM, seed, dtype).view(size, 2, 3, DIM)


def _cuts(size: int, seed: int) -> Tensor:
    """Draw crops of pictures of 100 pixels, some of them mirrored."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(0, 40, (size, 4), generator=generator)
    flips = torch.randint(0, 2, (size, 1), generator=generator)
    return torch.cat([numbers[:, :2], 100 - numbers[:, 2:], flips], dim=1).float()


def state_of(module) -> dict[str, Tensor]:
    """Return a copy of all that a module remembers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_state(module, state: dict[str, Tensor]) -> None:
    """Compare bit for bit, sizes included."""
    found = module.state_dict()
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def rows_of(more: dict[str, Any], rows: Any) -> dict[str, Any]:
    """Return some rows of what `extras` returns."""
    chosen = {key: value[rows] for key, value in more.items() if isinstance(value, Tensor)}
    chosen |= {key: tuple(each[rows] for each in value) for key, value in more.items() if isinstance(value, tuple)}
    return chosen | {"teacher": Teacher(more["teacher"].image[rows], more["teacher"].text[rows])}


def pairs_of(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float = 10.0,
    bias: Tensor | float = -5.0,
    caption_ids: Tensor | None = None,
    ids: Tensor | None = None,
    step: int = 0,
    **more: Any,
) -> Pairs:
    """Make a batch out of embeddings; samples and captions of all processes are different unless said otherwise.

    Args:
        more: Further fields of `Embeddings`.
    """
    places = dist.rank() * len(image) + torch.arange(len(image))
    ids = places if ids is None else ids
    numbers = [torch.as_tensor(number, dtype=image.dtype) for number in (scale, bias)]
    captions = places if caption_ids is None else caption_ids
    return Pairs(Embeddings(image, text, *numbers, **more), ids, captions, step=step)


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
