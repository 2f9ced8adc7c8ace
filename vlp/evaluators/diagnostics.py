"""What the search over an embedding space suffers from: hubs, few dimensions, towers that do not agree."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.typing import NDArray
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.cka import linear_cka
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.influence import Estimate
from vlp.evaluators.intervals import mean, proportion
from vlp.evaluators.moments import effective_rank, participation_ratio
from vlp.evaluators.score_quantiles import score_quantiles
from vlp.evaluators.score_tiles import score_tiles, spaced_places
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.ranges import Count
from vlp.ground.types import Evaluation, Metric, PerSample, RecipeError

RANKME_EPSILON = 1e-7


@evaluators.register("diagnostics")
class Diagnostics:
    """Describe the searches among pairs of a retrieval set; one pair per image, its first caption.

    Per query, in both directions: `query_auc`, the chance that its own item scores more than another (ties one half);
    `kl_budget`, the divergence of the softmax over the other items from uniform at the model's scale, which equals
    rho where iSogCLR has converged (Qiu et al. 2023, arXiv 2305.11965); `hard_share_top1` and `hard_share_top1pct`,
    the mass of the hardest item and of the hardest 1 % in that softmax. At another `temperature` they say how far
    contrast there is from its two limits (Wang and Liu 2021, arXiv 2012.09740, section 3): towards 0 one negative has
    the whole gradient and `hard_share_top1` is 1, towards infinity all have the same and `kl_budget` is 0.
    Of all queries: `hubness`, the skewness of how often an item is among the k nearest (Radovanovic et al. 2010), and
    `never_retrieved`, the share of items that never are.
    Of the embeddings: `rankme` (Garrido et al. 2023, arXiv 2210.02885, equation 2; compare at equal numbers of pairs),
    `participation_ratio` of the eigenvalues of the covariance, and `cka` between the towers (see `linear_cka`).
    Of the cosines: 5 % and 95 % quantiles of positives and negatives.

    Args:
        k: Nearest items that count for hubs.
        max_pairs: Take this many pairs, evenly spaced, from larger sets; the cost is quadratic.
        centred: Subtract the mean of each tower first and normalise again, which closes the gap between means.
        temperature: Of the softmax; the model's by default.
    """

    def __init__(
        self,
        data: EvaluationSet,
        *,
        k: int = 10,
        max_pairs: Count = 10_000,
        centred: bool = False,
        temperature: float | None = None,
    ):
        check_kind(data, "retrieval")
        self.data = data
        self.chosen = spaced_places(len(data), max_pairs)
        if not 1 <= k < len(self.chosen) or len(self.chosen) < 4:
            raise RecipeError(f"settings.k is {k}, and there are {len(self.chosen)} pairs; it needs 4, and more than k")
        if temperature is not None and not temperature > 0:
            raise RecipeError(f"settings.temperature is {temperature}; it must be positive")
        self.temperature = temperature
        self.k = k
        self.centred = centred
        self.texts = tuple(data.captions[i][0] for i in self.chosen)

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed the pairs and measure them."""
        images = encoder.images(self.data)[torch.from_numpy(self.chosen)]
        scale = encoder.scale if self.temperature is None else 1 / self.temperature
        return diagnose(images, encoder.texts(self.texts), scale, self.k, centred=self.centred)


def diagnose(
    images: Float32[Tensor, "n d"], texts: Float32[Tensor, "n d"], scale: float, k: int = 10, *, centred: bool = False
) -> Evaluation:
    """Measure matching rows of unit norm where they lie; everything is computed in float64, in tiles."""
    image, text = (_centre(rows.double()) if centred else rows.double() for rows in (images, texts))
    metrics: list[Metric] = []
    samples: dict[str, PerSample] = {}
    for direction, queries, items in (("image_to_text", image, text), ("text_to_image", text, image)):
        found = search(queries, items, scale, k)
        for name, values in found.by_query().items():
            metrics.append(mean(f"{direction}_{name}", values))
            samples[f"{direction}_{name}"] = PerSample(values.tolist())
        hubs, occurrences = hubness(found.nearest, len(items))
        metrics.append(hubs.as_metric(f"{direction}_hubness"))
        never = int((occurrences == 0).sum())
        metrics.append(proportion(f"{direction}_never_retrieved", never, len(image)))
    for name, rows in (("image", image), ("text", text)):
        metrics.append(effective_rank(rows, epsilon=RANKME_EPSILON).as_metric(f"rankme_{name}"))
        metrics.append(participation_ratio(rows).as_metric(f"participation_ratio_{name}"))
    metrics.append(linear_cka(image, text).as_metric("cka"))
    metrics += score_quantiles(image, text)
    return Evaluation(tuple(metrics), {"pairs": len(image), "centred": centred}, samples)


@dataclass(frozen=True)
class SearchNumbers:
    """What each query of one direction finds; matching rows are its own item.

    Args:
        nearest: The k nearest items of each query.
    """

    query_auc: NDArray[np.float64]
    kl_budget: NDArray[np.float64]
    hard_share_top1: NDArray[np.float64]
    hard_share_top1pct: NDArray[np.float64]
    nearest: NDArray[np.int64]

    def by_query(self) -> dict[str, NDArray[np.float64]]:
        """Return the numbers that each query has, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "nearest"}


def search(queries: Float64[Tensor, "n d"], items: Float64[Tensor, "n d"], scale: float, k: int) -> SearchNumbers:
    """Look at all scores of all queries, some hundred at a time."""
    size = len(items)
    hardest = math.ceil((size - 1) / 100)
    nearest: list[Tensor] = []
    parts: list[Tensor] = []
    for start, scores in score_tiles(queries, items):
        nearest.append(scores.topk(k, dim=1).indices)
        own = scores.diagonal(start).clone()[:, None]
        scores.diagonal(start).fill_(-math.inf)
        below = (scores < own).sum(1).double() - 1  # its own place is below, too
        auc = (below + (scores == own).sum(1).double() / 2) / (size - 1)
        logs = (scale * scores).log_softmax(dim=1)
        shares = logs.exp()
        entropy = -(shares * logs.masked_fill(shares == 0, 0)).sum(1)
        top = shares.topk(hardest, dim=1).values
        parts.append(torch.stack([auc, math.log(size - 1) - entropy, top[:, 0], top.sum(1)]))
    auc, budget, top, share = torch.cat(parts, dim=1).cpu().numpy()
    return SearchNumbers(auc, budget, top, share, torch.cat(nearest).cpu().numpy())


def hubness(nearest: NDArray[np.int64], num_items: int) -> tuple[Estimate, NDArray[np.int64]]:
    """Return the skewness of how often items are among the k nearest of queries, and how often each is.

    Radovanovic et al. 2010, equation 1; 0 where all are equal. The interval is over queries; the items stay.
    """
    occurrences = np.bincount(nearest.flatten(), minlength=num_items)
    apart = occurrences - occurrences.mean()
    second, third = np.mean(apart**2), np.mean(apart**3)
    if not second:
        return Estimate(0.0, torch.zeros(len(nearest), dtype=torch.float64)), occurrences
    value = third / second**1.5
    of_queries = (apart**2 - second)[nearest].sum(1) / second**1.5 - value * apart[nearest].sum(1) / second
    return Estimate(float(value), torch.from_numpy(3 / num_items * of_queries)), occurrences


def _centre(rows: Float64[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
    return torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
