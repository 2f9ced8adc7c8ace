"""Projected gradient ascent: the input in a ball around another at which a loss is large."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.attacks.ball import PIXELS, Bounds, Radius, signed_step

Loss = Callable[[Float[Tensor, "n ..."]], Tensor]


def gradient_of(loss: Loss, values: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Return how the sum of the losses changes with the values; gradients of nothing else are computed or kept."""
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(values).sum(), values)
    return gradient


def pgd(
    loss: Loss,
    centre: Float[Tensor, "n ..."],
    *,
    radius: Radius,
    step: Radius,
    num_steps: int,
    start: Float[Tensor, "n ..."] | None = None,
    bounds: Bounds = PIXELS,
) -> Float[Tensor, "n ..."]:
    """Return values in the ball around `centre` that raise the loss, after so many signed steps.

    Madry et al. 2018, section 2.1 (arXiv:1706.06083); with one step, the fast gradient sign method of Goodfellow et
    al. 2015 (arXiv:1412.6572), from a random start that of Wong et al. 2020 (arXiv:2001.03994). Each step costs a
    forward and a backward pass of what `loss` calls, without gradients of its parameters.

    Args:
        loss: One number per sample, or their sum. What a sample adds must not depend on the others, or a larger batch
            finds other values.
        radius: Largest change of a coordinate.
        step: Change of every coordinate at a step.
        start: Where to begin, within the ball (`random_start`); the centre where nothing is said.
        bounds: Smallest and largest value of a coordinate.
    """
    values = centre if start is None else start
    for _ in range(num_steps):
        values = signed_step(values, gradient_of(loss, values), step, centre, radius, bounds)
    return values.detach()
