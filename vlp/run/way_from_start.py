"""How far adapted towers have gone from where their training started."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vlp.towers.drift import weight_drift
from vlp.towers.dual import DualEncoder
from vlp.towers.low_rank import merged


class WayFromStart:
    """The weights that an adapted model trains, as they were when its recipe was carried out for the first time.

    They follow from the recipe and the weights that it starts from, so that no checkpoint keeps them.

    Args:
        towers: As they were built; what trains of them is copied to the CPU.
    """

    def __init__(self, towers: DualEncoder):
        self._sides = [
            name for name, locked in (("image", towers.locked_image), ("text", towers.locked_text)) if not locked
        ]
        self._start = {
            name: value.detach().cpu().clone() for name, value in towers.named_parameters() if value.requires_grad
        }

    def __call__(self, now: Mapping[str, Tensor]) -> dict[str, float]:
        """Return |w - w0| / |w0| of each tower that trains, by its name.

        Adapters count as what they add to their matrices, and a tower as all that it holds, so that ways of tuning can
        be compared.

        Args:
            now: Weights by name, whole, on the CPU.
        """
        found = weight_drift(merged({**now, **self._start}), merged(now))
        return {name: found[f"weight_drift_{name}"] for name in self._sides}
