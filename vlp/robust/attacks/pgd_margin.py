"""Projected gradient ascent on the margin."""

from __future__ import annotations

from vlp.robust.attacks.base import attacks
from vlp.robust.attacks.pgd_cross_entropy import PgdCrossEntropy
from vlp.robust.problem import margin


@attacks.register("pgd_margin")
class PgdMargin(PgdCrossEntropy):
    """Climb what the best wrong candidate is ahead of the best right one, in signed steps from random starts.

    The loss of Carlini and Wagner 2017 (arXiv:1608.04644, f6) in the ascent of Madry et al. 2018 (arXiv:1706.06083).
    Signs of its gradient do not depend on the scale, so that neither a low nor a high one hides anything.

    Args:
        steps: Gradients per start.
        step: Size of each step, as a share of the radius.
        restarts: Random starts; the worst of all counts.
    """

    loss = staticmethod(margin)
