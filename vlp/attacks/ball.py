"""Inputs no further from others than a radius: the ball that an attack may move in, in any coordinate or as a whole."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlp.ground.draws import below_one, uniform

PIXEL_STEP = 1 / 255
"""One step of 8-bit colours, the unit in which radii are told."""

PIXELS = (0.0, 1.0)
"""Smallest and largest value of a pixel before normalisation."""

ANYTHING = (-torch.inf, torch.inf)
"""Bounds of what has none, such as embeddings."""

Radius = float | Tensor  # a tensor lies on the device and broadcasts: one for all, or [n, 1, 1, 1]
Bounds = tuple[float, float]


def into_ball(
    values: Float[Tensor, "*shape"], centre: Float[Tensor, "*shape"], radius: Radius, bounds: Bounds = PIXELS
) -> Float[Tensor, "*shape"]:
    """Return the nearest values that lie within `radius` of `centre` in every coordinate, and within `bounds`."""
    return torch.minimum(torch.maximum(values, centre - radius), centre + radius).clamp(*bounds)


def into_round_ball(
    values: Float[Tensor, "... d"], centre: Float[Tensor, "... d"], radius: Radius
) -> Float[Tensor, "... d"]:
    """Return the nearest vectors whose Euclidean distance from those of `centre` is at most `radius`."""
    ways = values - centre
    lengths = torch.linalg.vector_norm(ways, dim=-1, keepdim=True).clamp(min=torch.finfo(ways.dtype).tiny)
    return centre + ways * (radius / lengths).clamp(max=1)


def signed_step(
    values: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    step: Radius,
    centre: Float[Tensor, "*shape"],
    radius: Radius,
    bounds: Bounds = PIXELS,
) -> Float[Tensor, "*shape"]:
    """Move every coordinate by `step` in the direction in which the loss grows, and back into the ball."""
    return into_ball(values + step * gradient.sign(), centre, radius, bounds)


def random_start(
    centre: Float[Tensor, "n ..."],
    radius: Radius,
    ids: Int64[Tensor, " n"],
    *,
    step: int = 0,
    seed: int = 0,
    bounds: Bounds = PIXELS,
) -> Float[Tensor, "n ..."]:
    """Return values drawn evenly from the ball: a pure function of (seed, step, id), whatever else is in the batch.

    Args:
        ids: On the device of `centre`.
        step: Of a training, or the number of a restart.
    """
    rows = centre.flatten(1)
    noise = below_one(uniform(ids, step, seed, rows.shape[1]), rows.dtype).view_as(centre)
    return into_ball(centre + radius * (2 * noise - 1), centre, radius, bounds)
