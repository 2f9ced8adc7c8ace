"""Quantiles of the cosines of matching and of all other pairs, in memory that is linear in pairs."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from vlp.evaluators.intervals import Z, quantile
from vlp.evaluators.score_tiles import score_tiles
from vlp.ground.types import Metric

FINE_BINS = 2**16  # of cosines: quantiles are exact to 3e-5
QUANTILES = {"p05": 0.05, "p95": 0.95}


def score_quantiles(image: Float64[Tensor, "n d"], text: Float64[Tensor, "n d"]) -> list[Metric]:
    """Return 5 % and 95 % quantiles of the cosines of matching rows, and of rows that do not match.

    Negatives share their images and texts, so that their interval is that of the share of negatives below the quantile,
    seen as a number of weighted pairs, turned into cosines (Woodruff 1952).
    """
    positives = (image * text).sum(1).cpu().numpy()
    counts = _count(image, text)
    found = [quantile(f"positive_{name}", positives, share) for name, share in QUANTILES.items()]
    places = {name: _place(counts, share) for name, share in QUANTILES.items()}
    spreads = _spreads(image, text, list(places.values()))
    for (name, share), spread in zip(QUANTILES.items(), spreads, strict=True):
        ends = [_place(counts, min(max(share + side, 0.0), 1.0)) for side in (-spread, spread)]
        value, low, high = (_cosine(place) for place in (places[name], *ends))
        found.append(Metric(f"negative_{name}", value, len(image), low, high))
    return found


def _bins(scores: Float64[Tensor, "c n"]) -> Int64[Tensor, "c n"]:
    return ((scores + 1) * (FINE_BINS / 2)).long().clamp_(0, FINE_BINS - 1)


def _cosine(place: int) -> float:
    return (place + 0.5) * 2 / FINE_BINS - 1


def _count(image: Float64[Tensor, "n d"], text: Float64[Tensor, "n d"]) -> Int64[Tensor, " bins"]:
    """Return how many negatives lie in each bin."""
    negatives = torch.zeros(FINE_BINS, dtype=torch.int64, device=image.device)
    for start, scores in score_tiles(image, text):
        bins = _bins(scores)
        negatives += torch.bincount(bins.flatten(), minlength=FINE_BINS)
        negatives -= torch.bincount(bins.diagonal(start), minlength=FINE_BINS)
    return negatives


def _place(counts: Int64[Tensor, " bins"], share: float) -> int:
    """Return the bin of a quantile."""
    reached = counts.cumsum(0)
    wanted = min(int(share * int(reached[-1])), int(reached[-1]) - 1)
    return min(int(torch.searchsorted(reached, wanted, right=True)), len(counts) - 1)


def _spreads(image: Float64[Tensor, "n d"], text: Float64[Tensor, "n d"], places: list[int]) -> list[float]:
    """Return half the width of the interval of the share of negatives up to each bin."""
    size = len(image)
    of_pairs = torch.zeros(len(places), size, dtype=torch.float64, device=image.device)
    for start, scores in score_tiles(image, text):
        bins = _bins(scores)
        for counts, place in zip(of_pairs, places, strict=True):
            below = bins <= place
            below.diagonal(start).fill_(False)
            counts += below.sum(0)
            counts[start : start + len(scores)] += below.sum(1)
    shares = (of_pairs / (size - 1)).cpu().numpy()
    influences = (shares - shares.mean(axis=1, keepdims=True)) / size
    return (Z * np.sqrt(np.square(influences).sum(axis=1))).tolist()
