"""The mean Gaussian kernel between two sets of embeddings, which uniformity and discrepancy are made of."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.shared.negative_sums import finite
from vlp.pairs import LSE, Pairs


def gaussian_request(sharpness: float) -> LSE:
    """Return what the engine must compute for `log_mean_kernel`: log-sum-exps at the kernel's scale.

    Args:
        sharpness: The t of exp(-t * squared distance).

    Raises:
        ValueError: `sharpness` is not positive.
    """
    if sharpness <= 0:
        raise ValueError(f"sharpness {sharpness} must be positive")
    return LSE("row", fixed_scale=2 * sharpness, mask="pair")


def log_mean_kernel(pairs: Pairs, sums: Float[Tensor, " n"], sharpness: float) -> Float[Tensor, ""]:
    """Return the log of the mean kernel over all combinations of different samples, the same on every process.

    0, without gradient, where the whole batch is one sample.
    """
    count = pairs.num_combinations
    total = pairs.log_total_exp(finite(sums)) - count.log().to(sums.dtype) - 2 * sharpness
    return total.masked_fill(count == 0, 0)
