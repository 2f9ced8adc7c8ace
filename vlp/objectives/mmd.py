"""Distance between the cloud of images and the cloud of texts."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.gaussian import gaussian_request, log_mean_kernel
from vlp.pairs import Pairs, Stats


@terms.register("mmd")
class MmdTerm(Term):
    """Make images and texts one cloud: the squared maximum mean discrepancy under a Gaussian kernel.

    Gretton et al. 2012, equation 3; with the modality as the nuisance variable it is the inverse contrastive loss of
    arXiv:2102.08343. Unlike cross-uniformity it attracts the clouds. Unbiased, so it may fall below 0.

    Formula: exp(uniformity of images) + exp(uniformity of texts) - 2 exp(cross-uniformity)

    Args:
        sharpness: The t of exp(-t * squared distance).

    Raises:
        ValueError: `sharpness` is not positive.
    """

    min_pairs = 2

    def __init__(self, *, sharpness: float = 2.0):
        super().__init__()
        self.sharpness = sharpness
        self.others = gaussian_request(sharpness)
        self.requests = {block: (self.others,) for block in ("image_image", "text_text", "image_text")}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        images, texts, across = (
            log_mean_kernel(pairs, stats[block, self.others], self.sharpness).exp() for block in self.requests
        )
        return pairs.share(images + texts - 2 * across)
