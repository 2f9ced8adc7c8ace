"""Image-text retrieval with one or more captions per image, both directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean, median, proportion
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, Metric

SCORES_AT_ONCE = 2**23
DIRECTIONS = ("image_to_text", "text_to_image")


@evaluators.register("retrieval")
class Retrieval:
    """Rank captions for each image and images for each caption, by the protocol of CLIP (Radford et al. 2021).

    A query is a hit at k if any of its positives is among the k best; recall is the mean over queries. Items of equal
    score, such as captions that stand at several images, have no order: a metric is its expectation over all orders,
    and `details.bounds` says what it is where ties fall against the model and where they fall for it. A program that
    sorts gives a number between these.

    Args:
        recall_at: The values of k.
    """

    def __init__(self, data: EvaluationSet, *, recall_at: tuple[int, ...] = (1, 5, 10)):
        check_kind(data, "retrieval")
        self.data = data
        self.recall_at = recall_at
        self.texts = tuple(caption for captions in data.captions for caption in captions)

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and captions and rank them."""
        images, texts = encoder.images(self.data), encoder.texts(self.texts)
        image_of_text = torch.tensor([i for i, captions in enumerate(self.data.captions) for _ in captions])
        return retrieve(images, texts, image_of_text, self.recall_at)


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


def retrieve(
    images: Float32[Tensor, "n d"],
    texts: Float32[Tensor, "m d"],
    image_of_text: Int64[Tensor, " m"],
    recall_at: tuple[int, ...] = (1, 5, 10),
) -> Evaluation:
    """Compute recall and median rank in both directions; every image must have a caption."""
    order = image_of_text.argsort(stable=True)
    of_images = rank_positives(images, texts, torch.stack([image_of_text[order], order]))
    of_texts = rank_positives(texts, images, torch.stack([torch.arange(len(texts)), image_of_text]))
    metrics: list[Metric] = []
    bounds: dict[str, list[float]] = {}
    for direction, ranks in zip(DIRECTIONS, (of_images, of_texts), strict=True):
        for k in recall_at:
            name, count = f"{direction}_recall@{k}", len(ranks.ahead)
            metrics.append(proportion(name, float(ranks.chances(k).sum()), count))
            bounds[name] = [int((each <= k).sum()) / count for each in (ranks.worst, ranks.best)]
        metrics.append(median(f"{direction}_median_rank", ranks.expected.numpy()))
    metrics += [mean_recall(k, of_images.chances(k), of_texts.chances(k), image_of_text) for k in recall_at]
    for k in recall_at:
        pairs = zip(*(bounds[f"{direction}_recall@{k}"] for direction in DIRECTIONS), strict=True)
        bounds[f"mean_recall@{k}"] = [sum(pair) / 2 for pair in pairs]
    details = {
        "images": len(images),
        "captions": len(texts),
        "ties": {"image_to_text": int(of_images.tied.sum()), "text_to_image": int(of_texts.tied.sum())},
        "bounds": bounds,
        "ranks": {"image_to_text": of_images.worst.tolist(), "text_to_image": of_texts.worst.tolist()},
    }
    return Evaluation(tuple(metrics), details)


def mean_recall(
    k: int, image_hits: Float64[Tensor, " n"], text_hits: Float64[Tensor, " m"], image_of_text: Int64[Tensor, " m"]
) -> Metric:
    """Mean of both directions' recall (DataComp's main metric); the bootstrap draws images with their captions."""
    num_images = len(image_hits)
    caption_hits = np.bincount(image_of_text.numpy(), weights=text_hits.numpy(), minlength=num_images)
    per_image = (image_hits.numpy() / num_images + caption_hits / len(text_hits)) / 2
    return mean(f"mean_recall@{k}", per_image * num_images)


def rank_positives(
    queries: Float32[Tensor, "q d"],
    items: Float32[Tensor, "m d"],
    positives: Int64[Tensor, "2 p"],
) -> Ranks:
    """Return where each query's best positive stands.

    Memory is SCORES_AT_ONCE numbers; buffers are used again, because the allocator keeps what it freed.

    Args:
        positives: Query and item of each positive pair, sorted by query; every query has one.
    """
    parts = []
    chunk = min(len(queries), max(1, SCORES_AT_ONCE // len(items)))
    score_buffer = queries.new_empty(chunk, len(items))
    flag_buffer = torch.empty(chunk, len(items), dtype=torch.bool)
    for start in range(0, len(queries), chunk):
        rows = queries[start : start + chunk]
        scores = torch.mm(rows, items.T, out=score_buffer[: len(rows)])
        flags = flag_buffer[: len(rows)]
        first, last = torch.searchsorted(positives[0], torch.tensor([start, start + len(scores)])).tolist()
        query, item = positives[0, first:last] - start, positives[1, first:last]
        found = scores[query, item]
        best = scores.new_full((len(scores),), -torch.inf).scatter_reduce(0, query, found, "amax")
        among_best = torch.zeros_like(best, dtype=torch.int64).index_add_(0, query, (found == best[query]).long())
        ahead = _count(torch.gt(scores, best[:, None], out=flags))
        tied = _count(torch.eq(scores, best[:, None], out=flags)) - among_best
        parts.append((ahead, tied, among_best))
    return Ranks(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _count(flags: Tensor) -> Int64[Tensor, " q"]:
    """Count by rows; torch would first copy the flags to integers."""
    return torch.from_numpy(np.count_nonzero(flags.numpy(), axis=1))
