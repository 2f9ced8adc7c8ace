"""Mean distance of a pair: the smallest term there can be."""

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import Pairs, Stats


@terms.register("distance")
class DistanceTerm(Term):
    """Pull each pair together.

    Wang and Isola 2020, section 4.1.1 (arXiv:2005.10242).

    Formula: mean_i |x_i - y_i|^power

    Args:
        power: Exponent of the distance.
    """

    def __init__(self, *, power: float = 2.0):
        super().__init__()
        self.power = power

    def forward(self, pairs: Pairs, _stats: Stats) -> Float[Tensor, ""]:
        return pairs.mean((2 - 2 * pairs.positive_cosines).clamp(min=0) ** (self.power / 2))
