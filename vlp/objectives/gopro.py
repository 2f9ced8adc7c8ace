"""Two views of each image agree with one another, and on what captions say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.negative_sums import finite
from vlp.pairs import LSE, Pairs, Request, Stats


@terms.register("gopro")
class GoproTerm(Term):
    """Tell the other view of an image from all views of other images, and let both find the same in every caption.

    After GOPro (Singha et al. 2023, arXiv:2308.11605), for prompts that are learned on a trained model
    (`model.tune: prompts` with `image` above 0): the visual contrast of SimCLR, with the paper's temperature and
    weight, and prompt consistency. Adapted: the paper makes prompts of each image's style and content, and compares the
    texts that two views make; prompts here are the same for all images, so that the views' similarities to texts are
    compared, and the model stays a dual encoder. The evaluator `gopro_prompts` learns and scores the paper's prompts.
    Without further views the first stands for both, and nothing is asked of it but to lie apart. With both weights 0 it
    is CoOp, whose contrast with the class names stands beside it.

    Formula: contrast_weight / 2 mean_i (lse_{j != i} over both views of x_i1.u_j / temperature with x_i1.x_i2 among
    them - x_i1.x_i2 / temperature, + the same of x_i2) + consistency_weight mean_i mean_j (x_i1.y_j - x_i2.y_j)^2

    Args:
        contrast_weight: Weight of the contrast among views.
        consistency_weight: Weight of the squared difference of similarities.
        temperature: Of the contrast.

    Raises:
        ValueError: A negative weight, or a `temperature` that is not positive.
    """

    discriminates = False
    reads_views = True
    compares_views = True

    def __init__(self, *, contrast_weight: float = 0.1, consistency_weight: float = 1.0, temperature: float = 0.1):
        super().__init__()
        if min(contrast_weight, consistency_weight) < 0 or temperature <= 0:
            raise ValueError("temperature must be positive, weights must not be negative")
        self.contrast_weight = contrast_weight
        self.consistency_weight = consistency_weight
        self.temperature = temperature
        scale = 1 / temperature
        self.rows, self.columns = (LSE(axis, fixed_scale=scale, mask="pair") for axis in ("row", "column"))
        self.requests = {"image_image": (self.rows,)}

    def plan(self, pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        first, second = _views(pairs)
        within: dict[str, Sequence[Request]] = {f"{view}_{view}": (self.rows,) for view in (first, second)}
        return within if first == second else within | {f"{first}_{second}": (self.rows, self.columns)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        first, second = _views(pairs)
        right = (pairs.view(first) * pairs.view(second)).sum(dim=1) / self.temperature
        missed = []
        of_second = self.rows if first == second else self.columns
        for view, request in ((first, self.rows), (second, of_second)):
            wrong = [finite(stats[f"{view}_{view}", self.rows]), finite(stats[f"{first}_{second}", request])]
            missed.append(functional.softplus(torch.logaddexp(*wrong) - right))
        contrast = pairs.mean((missed[0] + missed[1]) / 2)
        apart = pairs.view(first) - pairs.view(second)
        similar = ((apart @ _second_moment(pairs)) * apart).sum(dim=1)
        return self.contrast_weight * contrast + self.consistency_weight * pairs.mean(similar)


def _views(pairs: Pairs) -> tuple[str, str]:
    names = (*pairs.image_names, *pairs.image_names)
    return names[0], names[1]


def _second_moment(pairs: Pairs) -> Float[Tensor, "d d"]:
    """Return the mean of y_j y_j' over the whole batch: with it, squared differences need no matrix of pairs."""
    return pairs.total(pairs.text.T @ pairs.text) / pairs.num_pairs
