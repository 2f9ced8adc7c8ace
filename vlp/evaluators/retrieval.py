"""Image-text retrieval with one or more captions per image, both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean, mean_of_means, mean_of_proportions, median, proportion
from vlp.evaluators.r_precision import precision_at_r
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.ranges import Count
from vlp.ground.types import Evaluation, Metric, PerSample, RecipeError

SCORES_AT_ONCE = 2**23
DIRECTIONS = ("image_to_text", "text_to_image")
RANKS = ("ahead", "tied", "positives")


@evaluators.register("retrieval")
class Retrieval:
    """Rank captions for each image and images for each caption, by the protocol of CLIP (Radford et al. 2021).

    A query is a hit at k if any of its positives is among the k best; recall is the mean over queries. Items of equal
    score, such as captions that stand at several images, have no order: a metric is its expectation over all orders,
    and `details.bounds` says what recall is where ties fall against the model and where they fall for it. A program
    that sorts gives a number between these.

    Args:
        recall_at: The values of k.
        captions: All captions of an image, or the first alone, as CLIP_benchmark has it for Crossmodal-3600.
        folds: Search parts of the set, this many, one image after the other as they stand; recall is the mean over
            them. 5 folds of COCO's 5,000 images are COCO 1k.
        r_precision: Also report the share of positives among as many best items as a query has positives.
        map_at_r: Also report the mean precision among these (Musgrave et al. 2020, arXiv 2003.08505).
    """

    def __init__(
        self,
        data: EvaluationSet,
        *,
        recall_at: tuple[Count, ...] = (1, 5, 10),
        captions: Literal["all", "first"] = "all",
        folds: int = 1,
        r_precision: bool = False,
        map_at_r: bool = False,
    ):
        check_kind(data, "retrieval")
        if not 1 <= folds <= len(data):
            raise RecipeError(f"settings.folds is {folds}, and there are {len(data)} images")
        self.data = data
        self.recall_at = recall_at
        self.folds = folds
        self.precisions = (*(["r_precision"] if r_precision else []), *(["map_at_r"] if map_at_r else []))
        chosen = [listed if captions == "all" else listed[:1] for listed in data.captions]
        self.texts = tuple(caption for listed in chosen for caption in listed)
        self.image_of_text = torch.tensor([image for image, listed in enumerate(chosen) for _ in listed])

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and captions and rank them."""
        images, texts = encoder.images(self.data), encoder.texts(self.texts)
        return retrieve(
            images, texts, self.image_of_text, self.recall_at, num_folds=self.folds, precisions=self.precisions
        )


@dataclass(frozen=True)
class Ranks:
    """Where the best positives of queries stand; one row per query.

    Args:
        ahead: Negatives that score more than the best positive.
        tied: Negatives that score just as much.
        positives: Positives that score as much as the best one, at least 1.
    """

    ahead: Int64[Tensor, " q"]
    tied: Int64[Tensor, " q"]
    positives: Int64[Tensor, " q"]

    @property
    def best(self) -> Int64[Tensor, " q"]:
        """Rank, from 1, where ties fall for the model."""
        return self.ahead + 1

    @property
    def worst(self) -> Int64[Tensor, " q"]:
        """Rank where ties fall against it."""
        return self.ahead + self.tied + 1

    @property
    def expected(self) -> Float64[Tensor, " q"]:
        """Mean rank over all orders of what is tied."""
        return self.ahead + 1 + self.tied.double() / (self.positives + 1)

    def chances(self, k: int) -> Float64[Tensor, " q"]:
        """Share of the orders in which a positive is among the k best: one minus the chance to draw negatives alone."""
        places = k - self.ahead
        misses = torch.ones(len(self.ahead), dtype=torch.float64)
        for draw in range(k):
            share = (self.tied - draw).clamp(min=0).double() / (self.tied + self.positives - draw).clamp(min=1)
            misses = torch.where(draw < places, misses * share, misses)
        return 1 - misses


@dataclass(frozen=True)
class Queries:
    """One direction of a search.

    Args:
        ranks: Where the best positives stand.
        precisions: R-precision and mAP@R of each query, by name, where they are wanted.
        folds: The fold of each query.
    """

    direction: str
    ranks: Ranks
    precisions: dict[str, Float64[Tensor, " q"]]
    folds: Int64[Tensor, " q"]

    def share(self, name: str, hits: Float64[Tensor, " q"]) -> Metric:
        """Return the share of hits, which ties may split: within each fold, and their mean."""
        counts = np.bincount(self.folds.numpy())
        found = np.minimum(np.bincount(self.folds.numpy(), weights=hits.numpy()), counts)
        if len(counts) == 1:
            return proportion(name, float(found[0]), int(counts[0]))
        return mean_of_proportions(name, found, counts)

    def average(self, name: str, values: Float64[Tensor, " q"]) -> Metric:
        """Return the mean of numbers: within each fold, and the mean of these."""
        return mean_of_means(name, values.numpy(), self.folds.numpy())

    def each(self, values: Float64[Tensor, " q"]) -> PerSample:
        """Return what queries add to either."""
        return PerSample(values.tolist(), self.folds.tolist() if self.folds.any() else None)


def retrieve(
    images: Float32[Tensor, "n d"],
    texts: Float32[Tensor, "m d"],
    image_of_text: Int64[Tensor, " m"],
    recall_at: tuple[int, ...] = (1, 5, 10),
    *,
    num_folds: int = 1,
    precisions: Sequence[str] = (),
) -> Evaluation:
    """Compute recall and median rank in both directions, where the rows lie; every image must have a caption.

    Args:
        num_folds: Parts of the images, of equal size up to one, that are searched each on its own.
        precisions: Any of `r_precision` and `map_at_r`.
    """
    image_of_text = image_of_text.cpu()
    folds = torch.arange(len(images)) * num_folds // len(images)
    searched = [
        _search("image_to_text", images, texts, image_of_text, folds, precisions),
        _search("text_to_image", images, texts, image_of_text, folds, precisions),
    ]
    metrics: list[Metric] = []
    samples: dict[str, PerSample] = {}
    bounds: dict[str, list[float]] = {}
    for queries in searched:
        ranks, direction = queries.ranks, queries.direction
        for k in recall_at:
            name, hits = f"{direction}_recall@{k}", ranks.chances(k)
            metrics.append(queries.share(name, hits))
            samples[name] = queries.each(hits)
            bounds[name] = [queries.share(name, (each <= k).double()).value for each in (ranks.worst, ranks.best)]
        metrics.append(median(f"{direction}_median_rank", ranks.expected.numpy()))
        for name, values in queries.precisions.items():
            metrics.append(queries.average(f"{direction}_{name}", values))
            samples[f"{direction}_{name}"] = queries.each(values)
    for k in recall_at:
        name = f"mean_recall@{k}"
        of_images, of_texts = (np.asarray(samples[f"{direction}_recall@{k}"].values) for direction in DIRECTIONS)
        metric, samples[name] = mean_recall(name, of_images, of_texts, folds.numpy(), image_of_text.numpy())
        metrics.append(metric)
        pairs = zip(*(bounds[f"{direction}_recall@{k}"] for direction in DIRECTIONS), strict=True)
        bounds[name] = [sum(pair) / 2 for pair in pairs]
    details = {
        "images": len(images),
        "captions": len(texts),
        "folds": num_folds,
        "ties": {queries.direction: int(queries.ranks.tied.sum()) for queries in searched},
        "bounds": bounds,
        "ranks": {queries.direction: queries.ranks.worst.tolist() for queries in searched},
    }
    return Evaluation(tuple(metrics), details, samples)


def mean_recall(
    name: str,
    image_hits: NDArray[np.float64],
    text_hits: NDArray[np.float64],
    folds: NDArray[np.int64],
    image_of_text: NDArray[np.int64],
) -> tuple[Metric, PerSample]:
    """Mean of both directions' recall (DataComp's main metric); the bootstrap draws images with their captions.

    Args:
        image_hits: Share of hits of each image, and `text_hits` of each caption.
        folds: The fold of each image.
    """
    image_counts, text_counts = np.bincount(folds), np.bincount(folds[image_of_text])
    caption_hits = np.bincount(image_of_text, weights=text_hits, minlength=len(folds))
    per_image = (image_hits / image_counts[folds] + caption_hits / text_counts[folds]) / 2
    values = per_image * (len(folds) / len(image_counts))
    return mean(name, values), PerSample(values.tolist())


def _search(
    direction: str,
    images: Float32[Tensor, "n d"],
    texts: Float32[Tensor, "m d"],
    image_of_text: Int64[Tensor, " m"],
    folds: Int64[Tensor, " n"],
    precisions: Sequence[str],
) -> Queries:
    """Search each fold and put its queries back in their places."""
    by_image = direction == "image_to_text"
    fold_of_query = folds if by_image else folds[image_of_text]
    parts = []
    for fold in range(int(folds.max()) + 1):
        chosen, captions = torch.where(folds == fold)[0], torch.where(folds[image_of_text] == fold)[0]
        pairs = torch.stack([image_of_text[captions] - chosen[0], torch.arange(len(captions))])
        order = pairs[0].argsort(stable=True)
        whole = len(chosen) == len(images)
        rows = images if whole else images[chosen.to(images.device)]
        words = texts if whole else texts[captions.to(texts.device)]
        sides = (rows, words, pairs[:, order]) if by_image else (words, rows, pairs.flip(0))
        ranks = rank_positives(*sides)
        parts.append((ranks, _precisions(ranks, *sides) if precisions else ()))
    places = fold_of_query.argsort(stable=True).argsort()
    together = Ranks(*(torch.cat([getattr(part, name) for part, _ in parts])[places] for name in RANKS))
    found = {
        name: torch.cat([each[number] for _, each in parts])[places]
        for number, name in enumerate(("r_precision", "map_at_r"))
        if name in precisions
    }
    return Queries(direction, together, found, fold_of_query)


def _precisions(
    ranks: Ranks, queries: Float32[Tensor, "q d"], items: Float32[Tensor, "m d"], positives: Int64[Tensor, "2 p"]
) -> tuple[Float64[Tensor, " q"], Float64[Tensor, " q"]]:
    """Return R-precision and mAP@R; where each query has one positive, both are recall at 1."""
    if len(positives[0]) == len(queries):
        return ranks.chances(1), ranks.chances(1)
    return precision_at_r(queries, items, positives)


def rank_positives(
    queries: Float32[Tensor, "q d"],
    items: Float32[Tensor, "m d"],
    positives: Int64[Tensor, "2 p"],
) -> Ranks:
    """Return where each query's best positive stands, on the CPU.

    Memory is SCORES_AT_ONCE numbers; buffers are used again, because the allocator keeps what it freed.

    Args:
        positives: Query and item of each positive pair, sorted by query; every query has one.
    """
    parts = []
    chunk = min(len(queries), max(1, SCORES_AT_ONCE // len(items)))
    score_buffer = queries.new_empty(chunk, len(items))
    flag_buffer = torch.empty(chunk, len(items), dtype=torch.bool, device=queries.device)
    starts = range(0, len(queries), chunk)
    borders = torch.searchsorted(positives[0].cpu(), torch.tensor([*starts, len(queries)])).tolist()
    positives = positives.to(queries.device)
    for number, start in enumerate(starts):
        rows = queries[start : start + chunk]
        scores = torch.mm(rows, items.T, out=score_buffer[: len(rows)])
        flags = flag_buffer[: len(rows)]
        mine = positives[:, borders[number] : borders[number + 1]]
        query, item = mine[0] - start, mine[1]
        found = scores[query, item]
        best = scores.new_full((len(scores),), -torch.inf).scatter_reduce(0, query, found, "amax")
        among_best = torch.zeros_like(best, dtype=torch.int64).index_add_(0, query, (found == best[query]).long())
        ahead = _count(torch.gt(scores, best[:, None], out=flags))
        tied = _count(torch.eq(scores, best[:, None], out=flags)) - among_best
        parts.append((ahead, tied, among_best))
    return Ranks(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _count(flags: Tensor) -> Int64[Tensor, " q"]:
    """Count by rows; on the CPU torch would first copy the flags to integers."""
    if flags.device.type != "cpu":
        return flags.sum(dim=1)
    return torch.from_numpy(np.count_nonzero(flags.numpy(), axis=1))
