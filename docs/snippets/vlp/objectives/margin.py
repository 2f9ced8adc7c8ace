"""Softmax contrast in which the right caption must win by a margin."""

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import LSE, Pairs, Stats


@terms.register("margin")
class MarginTerm(Term):
    """Pick the right caption for each image, and the right image for each caption, by a margin.

    Yang et al. 2019, equation 4 (arXiv:1902.08564). With a margin of 0 it is `clip`.

    Formula: mean_i log(1 + sum_{j != i} exp(z_ij - z_ii + scale * margin)) in both directions

    Args:
        margin: By how much the cosine of a pair must exceed those of its negatives.
    """

    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")
    requests = {"image_text": (rows, columns)}

    def __init__(self, *, margin: float = 0.3):
        super().__init__()
        self.margin = margin

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        handicap = pairs.scale * self.margin
        image_to_text = pairs.miss(stats["image_text", self.rows] + handicap)
        text_to_image = pairs.miss(stats["image_text", self.columns] + handicap)
        return pairs.mean((image_to_text + text_to_image) / 2)
