"""The loss of universal attacks: away from what belongs to a sample, towards what is least like it."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

TEMPERATURE = 0.1
PUSH = 0.1  # weight of the distance from the unchanged embeddings


def malicious_contrast(
    changed: Float32[Tensor, "b d"],
    clean: Float32[Tensor, "b d"],
    own: Float32[Tensor, "b d"],
    others: Float32[Tensor, "t d"],
    *,
    temperature: float = TEMPERATURE,
    push: float = PUSH,
) -> Float32[Tensor, ""]:
    """Return what a universal attack makes small: log P / (P + T), minus a push away from the clean embeddings.

    Fang et al. 2024 (arXiv:2406.05491), with one caption per image: P is the mean of exp(changed_i . own_i / t) and T
    that of exp(changed_i . far_i / t), t being the temperature and far_i of all `others` the one least like `clean_i`.

    Args:
        changed: Embeddings of the changed samples, and `clean`, of the unchanged ones.
        own: What belongs to each, of the other modality.
        others: What else there is of that modality.
        push: Weight of the squared distances between changed and clean embeddings.
    """
    far = others[(clean @ others.T).argmin(dim=1)]
    right = ((changed * own).sum(dim=1) / temperature).exp().mean()
    wrong = ((changed * far).sum(dim=1) / temperature).exp().mean()
    return (right / (right + wrong)).log() - push * (changed - clean).square().sum()


def scaled_copies(
    pixels: Float32[Tensor, "b 3 h w"], scales: tuple[float, ...], generator: torch.Generator
) -> list[Float32[Tensor, "b 3 h w"]]:
    """Return the pixels, and copies that were noised, resized and resized back, so that an attack depends on no detail.

    Args:
        generator: Of the CPU.
    """
    copies = [pixels]
    for scale in scales:
        noise = 0.05 * torch.randn(pixels.shape, generator=generator).to(pixels.device)
        size = [max(1, int(scale * side)) for side in pixels.shape[2:]]
        small = _resized(pixels + noise, size).clamp(0, 1)
        copies.append(_resized(small, list(pixels.shape[2:])))
    return copies


def _resized(pixels: Tensor, size: list[int]) -> Tensor:
    return torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)
