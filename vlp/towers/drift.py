"""How far one set of weights lies from another: a teacher from its student, an average, an older checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float64
from torch import Tensor

from vlp.ground import dist

SIDES = {"weight_drift": "", "weight_drift_image": "core.visual.", "weight_drift_text": "core.text."}


@torch.no_grad()
def weight_drift(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, float]:
    """Return |w - w'| / |w| of all weights, and of each tower where names tell them apart.

    Everything that is a real number counts, running means included; 0 is equal, and about 1.4 unrelated. Called by all
    processes where weights are sharded.

    Args:
        weights: By name.
        others: Of the same names and shapes.
    """
    names = [name for name in weights if weights[name].is_floating_point()]
    if not names:
        return {}
    squares = torch.stack([_squares(weights[name], others[name]) for name in names])
    is_sharded = torch.tensor([hasattr(weights[name], "to_local") for name in names])
    if is_sharded.any():
        squares[is_sharded] = dist.all_reduce_sum(squares[is_sharded])
    found = {}
    for label, start in SIDES.items():
        chosen = [place for place, name in enumerate(names) if name.startswith(start)]
        if chosen:
            apart, whole = squares[chosen].sum(0)
            found[label] = (apart / whole.clamp(min=1e-300)).sqrt()
    values: list[float] = torch.stack(list(found.values())).tolist()
    return dict(zip(found, values, strict=True))


def _squares(weight: Tensor, other: Tensor) -> Float64[Tensor, " 2"]:
    """Return the squared distance of this process's parts, and the squared norm of the first."""
    mine = dist.own_part(weight.detach()).double()
    apart = mine - dist.own_part(other.detach()).to(mine.device).double()
    return torch.stack([apart.square().sum(), mine.square().sum()])
