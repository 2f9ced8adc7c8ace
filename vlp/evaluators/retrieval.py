"""Image-text retrieval with one or more captions per image, both directions."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean, median, proportion
from vlp.evaluators.shared import SharedEncoder
from vlp.types import Evaluation, Metric

SCORES_AT_ONCE = 2**23
DIRECTIONS = ("image_to_text", "text_to_image")


@evaluators.register("retrieval")
class Retrieval:
    """Rank captions for each image and images for each caption, by the protocol of CLIP (Radford et al. 2021).

    A query is a hit at k if any of its positives is among the k best; recall is the mean over queries. Equal scores
    count against the model: every negative that scores as much as the best positive stands before it.

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


def retrieve(
    images: Float32[Tensor, "n d"],
    texts: Float32[Tensor, "m d"],
    image_of_text: Int64[Tensor, " m"],
    recall_at: tuple[int, ...] = (1, 5, 10),
) -> Evaluation:
    """Compute recall and median rank in both directions; every image must have a caption."""
    order = image_of_text.argsort(stable=True)
    image_ranks, image_ties = rank_positives(images, texts, torch.stack([image_of_text[order], order]))
    text_ranks, text_ties = rank_positives(texts, images, torch.stack([torch.arange(len(texts)), image_of_text]))
    metrics: list[Metric] = []
    for direction, ranks in zip(DIRECTIONS, (image_ranks, text_ranks), strict=True):
        metrics += [proportion(f"{direction}_recall@{k}", int((ranks <= k).sum()), len(ranks)) for k in recall_at]
        metrics.append(median(f"{direction}_median_rank", ranks.numpy()))
    metrics += [mean_recall(k, image_ranks <= k, text_ranks <= k, image_of_text) for k in recall_at]
    details = {
        "images": len(images),
        "captions": len(texts),
        "ties": {"image_to_text": int(image_ties.sum()), "text_to_image": int(text_ties.sum())},
        "ranks": {"image_to_text": image_ranks.tolist(), "text_to_image": text_ranks.tolist()},
    }
    return Evaluation(tuple(metrics), details)


def mean_recall(k: int, image_hits: Tensor, text_hits: Tensor, image_of_text: Int64[Tensor, " m"]) -> Metric:
    """Mean of both directions' recall (DataComp's main metric); the bootstrap draws images with their captions."""
    num_images = len(image_hits)
    caption_hits = np.bincount(image_of_text.numpy(), weights=text_hits.double().numpy(), minlength=num_images)
    per_image = (image_hits.numpy() / num_images + caption_hits / len(text_hits)) / 2
    return mean(f"mean_recall@{k}", per_image * num_images)


def rank_positives(
    queries: Float32[Tensor, "q d"],
    items: Float32[Tensor, "m d"],
    positives: Int64[Tensor, "2 p"],
) -> tuple[Int64[Tensor, " q"], Int64[Tensor, " q"]]:
    """Return the rank of each query's best positive, from 1, and how many negatives score just as much.

    Memory is SCORES_AT_ONCE numbers; buffers are used again, because the allocator keeps what it freed.

    Args:
        positives: Query and item of each positive pair, sorted by query; every query has one.
    """
    ranks, ties = [], []
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
        ranks.append(ahead + tied + 1)
        ties.append(tied)
    return torch.cat(ranks), torch.cat(ties)


def _count(flags: Tensor) -> Int64[Tensor, " q"]:
    """Count by rows; torch would first copy the flags to integers."""
    return torch.from_numpy(np.count_nonzero(flags.numpy(), axis=1))
