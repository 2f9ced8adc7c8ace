"""How far one set of weights lies from another: a teacher from its student, an average, an older checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float64
from torch import Tensor

from vlp.ground import dist

SIDES = {"image": "core.visual.", "text": "core.text."}


@torch.no_grad()
def weight_drift(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, float]:
    """Return |w - w'| / |w| of all weights, and of each tower where names tell them apart.

    Everything that is a real number counts, running means included; 0 is equal, and about 1.4 unrelated. Called by all
    processes where weights are sharded.

    Args:
        weights: By name.
        others: Of the same names and shapes.
    """
    sides = {"weight_drift": list(weights)}
    for side, start in SIDES.items():
        sides[f"weight_drift_{side}"] = [name for name in weights if name.startswith(start)]
    found = {}
    for side, names in sides.items():
        pairs = [(weights[name], others[name]) for name in names if weights[name].is_floating_point()]
        if pairs:
            found[side] = float((_squares(pairs, 1) / _squares(pairs, 0).clamp(min=1e-300)).sqrt())
    return found


def _squares(pairs: Iterable[tuple[Tensor, Tensor]], share: int) -> Float64[Tensor, ""]:
    """Return the sum of squares of the first of each pair, less a share of the second."""
    whole: list[Tensor] = []
    parts: list[Tensor] = []
    for first, second in pairs:
        mine, other = dist.own_part(first.detach()), dist.own_part(second.detach())
        total = (mine.double() - share * other.to(mine.device).double()).square().sum()
        (parts if hasattr(first, "to_local") else whole).append(total)
    sums = [torch.stack(whole).sum()] if whole else []
    if parts:
        sums.append(dist.all_reduce_sum(torch.stack(parts).sum()))
    return torch.stack(sums).sum()
