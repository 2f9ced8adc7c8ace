"""How many patches the images of each batch may have: a pure function of the seed and its number."""

from __future__ import annotations

from collections.abc import Sequence

from vlp.ground.randomness import BUDGET, Draws


class PatchBudgets:
    """Budgets of which each batch of the whole job draws one, with equal chances.

    The sampling of sequence lengths of SigLIP 2's NaFlex (Tschannen et al. 2025, arXiv:2502.14786, section 2.4.2).

    Args:
        seed: Of the run.
        budgets: Patches of an image, at most.
    """

    def __init__(self, seed: int, budgets: Sequence[int]):
        self.seed = seed
        self.budgets = tuple(budgets)

    def of(self, number: int) -> int:
        """Return the budget of batch `number`."""
        return Draws(self.seed, BUDGET, number).choice(self.budgets)
