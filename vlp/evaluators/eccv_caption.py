"""Retrieval on COCO's 5,000 test images by the ground truths of ECCV Caption and CxC."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean_of_means, proportion
from vlp.evaluators.r_precision import precision_at_r
from vlp.evaluators.retrieval import rank_positives, retrieve
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.ranges import Count
from vlp.ground.types import Evaluation, Metric, PerSample, RecipeError

PER_IMAGE = 5
FOLDS = 5
Links = Mapping[int, Sequence[int]]


@evaluators.register("eccv_caption")
class EccvCaption:
    """Score a COCO test set (Karpathy's split) by the positives that people found beside each image's own captions.

    ECCV Caption (Chun et al. 2022, arXiv 2204.03359): `eccv_recall@1`, `eccv_r_precision` and `eccv_map_at_r`, means of
    both directions, which also stand alone (`eccv_image_to_text_map_at_r`); 1,261 images and 1,332 captions ask, all
    5,000 and 25,000 are searched. CxC (Parekh et al. 2021, arXiv 2004.15020): `cxc_image_to_text_recall@k` and so on.
    COCO's own: `coco_5k_*`, and `coco_1k_*` in 5 folds. The ground truths come with the package `eccv-caption`. An
    image's first five captions count, as there.

    Args:
        recall_at: The values of k.
        order: How images are known: by the COCO id at the end of their keys (`COCO_val2014_000000391895`), or because
            they stand in the order of Karpathy's split.
    """

    def __init__(
        self,
        data: EvaluationSet,
        *,
        recall_at: tuple[Count, ...] = (1, 5, 10),
        order: Literal["keys", "karpathy"] = "keys",
    ):
        check_kind(data, "retrieval")
        self.data = data
        self.recall_at = recall_at
        self.truth = load_truth()
        self.indices = places_of(data, self.truth.image_ids, order)
        for index in self.indices:
            if len(data.captions[index]) < PER_IMAGE:
                sample = data.samples[index]
                raise RecipeError(
                    f"{sample.where}: sample '{sample.key}' has {len(data.captions[index])} captions, "
                    f"ECCV Caption knows {PER_IMAGE} of each image"
                )
        self.texts = tuple(caption for index in self.indices for caption in data.captions[index][:PER_IMAGE])

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and captions and search."""
        images = encoder.images(self.data)
        texts = encoder.texts(self.texts)
        return score_truth(images[torch.tensor(self.indices, device=images.device)], texts, self.truth, self.recall_at)


@dataclass(frozen=True)
class GroundTruth:
    """What belongs together.

    Args:
        image_ids: Images in Karpathy's order.
        caption_ids: Their captions, five of each.
        links: By ground truth (`eccv`, `cxc`), captions of image ids and images of caption ids; some ids are missing.
    """

    image_ids: tuple[int, ...]
    caption_ids: tuple[int, ...]
    links: Mapping[str, tuple[Links, Links]]


def load_truth() -> GroundTruth:
    """Read the ground truths of the package.

    Raises:
        RecipeError: It is not installed.
    """
    try:
        from eccv_caption import Metrics
    except ImportError as error:
        raise RecipeError(
            f"evaluator eccv_caption needs its ground truths: pip install eccv-caption ({error})"
        ) from error
    known = Metrics()
    captions = tuple(int(number) for number in known.coco_ids)
    images = tuple(dict.fromkeys(known.coco_gts["t2i"][caption][0] for caption in captions))
    links = {name: (truth["i2t"], truth["t2i"]) for name, truth in (("eccv", known.eccv_gts), ("cxc", known.cxc_gts))}
    return GroundTruth(images, captions, links)


def places_of(data: EvaluationSet, image_ids: Sequence[int], order: str) -> list[int]:
    """Return where each image of the ground truth stands in a set.

    Raises:
        RecipeError: One is missing, the set has another number of images, or its keys contradict the order.
    """
    if len(data) != len(image_ids):
        raise RecipeError(f"{data.folder.root}: {len(data)} images, ECCV Caption has {len(image_ids)}")
    numbers = [re.search(r"(\d+)$", sample.key) for sample in data.samples]
    places = {int(number[1]): index for index, number in enumerate(numbers) if number}
    if order == "karpathy":
        _check_order(data, places, image_ids)
        return list(range(len(data)))
    if missing := [image for image in image_ids if image not in places]:
        raise RecipeError(
            f"{data.folder.root}: no key ends in {missing[0]}, the COCO id of an image ({len(missing)} are missing); "
            "set settings.order to karpathy if the images stand in the order of Karpathy's split"
        )
    return [places[image] for image in image_ids]


def _check_order(data: EvaluationSet, places: Mapping[int, int], image_ids: Sequence[int]) -> None:
    """Refuse keys that are the COCO ids of all images, in another order."""
    if all(image in places for image in image_ids):
        wrong = next((index for index, image in enumerate(image_ids) if places[image] != index), None)
        if wrong is not None:
            sample = data.samples[wrong]
            raise RecipeError(
                f"settings.order is karpathy, where image {wrong + 1} has the COCO id {image_ids[wrong]}, but its key "
                f"is '{sample.key}': set settings.order to keys"
            )


def score_truth(
    images: Float32[Tensor, "n d"], texts: Float32[Tensor, "m d"], truth: GroundTruth, recall_at: Sequence[int]
) -> Evaluation:
    """Search with rows in the order of the ground truth, on the device where they lie."""
    image_of_text = torch.arange(len(images)).repeat_interleave(PER_IMAGE)
    metrics: list[Metric] = []
    samples: dict[str, PerSample] = {}
    details: dict[str, object] = {"images": len(images), "captions": len(texts)}
    sides = (("image_to_text", images, texts), ("text_to_image", texts, images))
    for name, links in truth.links.items():
        ids = (truth.image_ids, truth.caption_ids)
        found: dict[str, list[Float64[Tensor, " q"]]] = {}
        for (direction, queries, items), asked, linked, listed in zip(sides, ids, links, ids[::-1], strict=True):
            rows, positives, missing = pairs_of(linked, asked, listed)
            chosen = queries[rows.to(queries.device)]
            ranks = rank_positives(chosen, items, positives)
            values = {f"recall@{k}": ranks.chances(k) for k in recall_at}
            if name == "eccv":
                values["r_precision"], values["map_at_r"] = precision_at_r(chosen, items, positives, missing)
            for metric, each in values.items():
                found.setdefault(metric, []).append(each)
                metrics.append(_average(f"{name}_{direction}_{metric}", each, metric))
                samples[metrics[-1].name] = PerSample(each.tolist())
            details[f"{name}_{direction}_queries"] = len(rows)
        for metric, both in found.items():
            groups = np.repeat([0, 1], [len(each) for each in both])
            metrics.append(mean_of_means(f"{name}_{metric}", torch.cat(both).numpy(), groups))
            samples[f"{name}_{metric}"] = PerSample(torch.cat(both).tolist(), groups.tolist())
    for prefix, folds in (("coco_5k", 1), ("coco_1k", FOLDS)):
        own = retrieve(images, texts, image_of_text, tuple(recall_at), num_folds=folds)
        metrics += [replace(metric, name=f"{prefix}_{metric.name}") for metric in own.metrics]
        samples |= {f"{prefix}_{name}": each for name, each in own.samples.items()}
    return Evaluation(tuple(metrics), details, samples)


def pairs_of(
    linked: Links, asked: Sequence[int], listed: Sequence[int]
) -> tuple[Int64[Tensor, " q"], Int64[Tensor, "2 p"], Int64[Tensor, " q"]]:
    """Return the rows that ask, query and item of each positive pair, and how many positives of each are not listed.

    Two images of ECCV Caption have a sixth caption, which it counts and nobody can find.

    Args:
        linked: Ids of items by the id of a query.
        asked: Ids of all rows that could ask.
        listed: Ids of the items, in the order of their rows.
    """
    place = {number: index for index, number in enumerate(listed)}
    rows = [index for index, number in enumerate(asked) if number in linked]
    found = [sorted({place[number] for number in linked[asked[row]] if number in place}) for row in rows]
    pairs = [(query, item) for query, items in enumerate(found) for item in items]
    missing = [len(set(linked[asked[row]])) - len(items) for row, items in zip(rows, found, strict=True)]
    return torch.tensor(rows), torch.tensor(pairs).T.contiguous(), torch.tensor(missing)


def _average(name: str, values: Float64[Tensor, " q"], metric: str) -> Metric:
    if metric.startswith("recall"):
        return proportion(name, float(values.sum()), len(values))
    return mean_of_means(name, values.numpy(), np.zeros(len(values), dtype=np.int64))
