"""How much of the past an average keeps as a training goes on."""

from __future__ import annotations

import math


def rising_decay(decay: float, step: int, last_step: int | None) -> float:
    """Return the weight of the past at a step: `decay` at first, 1 from `last_step` on, half a cosine between.

    Grill et al. 2020, section 3.3 (arXiv:2006.07733).

    Args:
        last_step: None leaves it.
    """
    if last_step is None:
        return decay
    return 1 - (1 - decay) * (math.cos(math.pi * min(step / last_step, 1.0)) + 1) / 2
