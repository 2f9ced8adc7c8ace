"""How far gradients stray from float64, on embeddings like those of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.objective_cases import DIM, PEERS, build
from vlp.ground.types import Embeddings
from vlp.pairs import Pairs

PAIRS = 2048
SCALE = 100.0
BIAS = -30.0  # between the positives, whose logits are near 32, and the hard negatives near 25
PER_CLUSTER = 32
FLOAT32, BFLOAT16 = "vlp, float32 inputs", "vlp, bfloat16 inputs"
LossOf = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class GradientError:
    """How one implementation did.

    Args:
        error: Norm of the difference from the float64 gradient of the same inputs over its norm, the larger of
            images and texts.
        loss: Of the float64 reference.
    """

    term: str
    what: str
    error: float
    loss: float


def gradient_errors(pairs: int = PAIRS) -> Iterator[GradientError]:
    """Compare every implementation with the dense formula in float64."""
    features = trained_like(pairs)
    rounded = [rows.bfloat16() for rows in features]
    for term, reference, peer in (
        ("clip", dense_clip, "open_clip.ClipLoss"),
        ("siglip", dense_siglip, "open_clip.SigLipLoss"),
    ):
        for what, loss_of, inputs in (
            (FLOAT32, ours(term), [rows.float() for rows in features]),
            (f"{peer}, float32 inputs", PEERS[peer](), [rows.float() for rows in features]),
            ("vlp, kept in bfloat16", ours(term), rounded),
            (BFLOAT16, ours(term), [rows.float() for rows in rounded]),
        ):
            found = gradients(loss_of, inputs)[1]
            loss, exact = gradients(reference, [rows.double() for rows in inputs])
            yield GradientError(term, what, _distance(found, exact), loss)
        stored = [gradient.bfloat16() for gradient in found]
        yield GradientError(term, "the same, stored in bfloat16", _distance(stored, exact), loss)
        stored = [gradient.bfloat16() for gradient in exact]
        yield GradientError(term, "the float64 gradient, stored in bfloat16", _distance(stored, exact), loss)


def trained_like(pairs: int) -> list[Tensor]:
    """Draw images in tight clusters, and texts whose cosine with their image is near 0.32."""
    generator = torch.Generator().manual_seed(0)

    def noise(rows: int) -> Tensor:
        return functional.normalize(torch.randn(rows, DIM, generator=generator, dtype=torch.float64), dim=1)

    centres = noise(max(1, pairs // PER_CLUSTER))
    image = functional.normalize(centres[torch.arange(pairs) % len(centres)] + 0.5 * noise(pairs), dim=1)
    return [image, functional.normalize(image + 3 * noise(pairs), dim=1)]


def gradients(loss_of: LossOf, features: list[Tensor]) -> tuple[float, list[Tensor]]:
    """Return the loss and the gradients of both features."""
    image, text = (rows.detach().requires_grad_() for rows in features)
    numbers = (torch.tensor(number, dtype=torch.promote_types(image.dtype, torch.float32)) for number in (SCALE, BIAS))
    loss = loss_of(image, text, *numbers)
    return loss.item(), list(torch.autograd.grad(loss, (image, text)))


def ours(name: str) -> LossOf:
    """Return a term of vlp as a function of embeddings."""
    objective = build(name)

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ids = torch.arange(len(image))
        return objective(Pairs(Embeddings(image, text, scale, bias), ids, ids), 0)[0]

    return loss


def dense_clip(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Tensor:
    """Return the symmetric softmax contrast, the whole matrix at once."""
    logits, right = scale * image @ text.T, torch.arange(len(image))
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


def dense_siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return the sigmoid contrast, the whole matrix at once."""
    logits = scale * image @ text.T + bias
    signs = 2 * torch.eye(len(image), dtype=logits.dtype) - 1
    return -functional.logsigmoid(signs * logits).sum() / len(image)


def _distance(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
