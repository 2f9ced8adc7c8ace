"""Referees that are libraries: they are given our embeddings, and compute the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from referees.answers import Answer
from vlp.evaluators.base import Task
from vlp.evaluators.eccv_caption import PER_IMAGE, GroundTruth, load_truth, places_of
from vlp.evaluators.probes.train_split import open_split, read_features
from vlp.evaluators.record import Record
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError

LISTED = 200  # images to rank for a caption: of a fifth of them, some forty
CHUNK = 1000
Ranked = dict[int, list[int]]


class ScikitLearn:
    """Fit the linear probe by `LogisticRegression` at the same penalty, and let `KNeighborsClassifier` vote.

    A probe's accuracy may differ by one sample in a thousand, at least one, because both stop near the optimum.
    """

    name = "scikit-learn"

    def objection(self, task: Task) -> None:
        """Judge every probe."""

    def prepared(self, task: Task) -> Task:
        """Run the task as it is."""
        return task

    def answer(self, task: Task, encoder: SharedEncoder, record: Record) -> Answer:
        """Score the split of the task with a classifier of scikit-learn's."""
        try:
            import sklearn.linear_model  # noqa: F401
        except ImportError as error:
            raise RecipeError(f"the referee of probes is missing: pip install scikit-learn ({error})") from error
        settings = task.settings.model_dump()
        data = encoder.open(task.data)
        splits = [settings["train_split"], settings.get("validation_split")]
        parts = [
            read_features(encoder, open_split(encoder, data, split, "train_split"), settings["features"])
            for split in splits
            if split
        ]
        features = np.concatenate([part.features.double().cpu().numpy() for part in parts])
        labels = np.concatenate([part.labels.cpu().numpy() for part in parts])
        tested = read_features(encoder, data, settings["features"])
        queries, truth = tested.features.double().cpu().numpy(), tested.labels.cpu().numpy()
        if task.evaluator == "knn":
            return Answer(self._neighbours(features, labels, queries, truth, settings))
        return self._probe(features, labels, queries, truth, record["details"]["l2"])

    def _probe(
        self, features: np.ndarray, labels: np.ndarray, queries: np.ndarray, truth: np.ndarray, penalty: float
    ) -> Answer:
        from sklearn.linear_model import LogisticRegression

        probe = LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=100_000).fit(features, labels)
        right = probe.predict(queries) == truth
        return Answer({"acc1": float(right.mean())}, slack=max(1e-3, 1.0 / len(truth)))

    def _neighbours(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        queries: np.ndarray,
        truth: np.ndarray,
        settings: dict[str, object],
    ) -> dict[str, float]:
        from sklearn.neighbors import KNeighborsClassifier

        numbers, temperature = settings["k"], settings["temperature"]
        assert isinstance(numbers, tuple)
        found = {}
        for k in numbers:
            neighbours = KNeighborsClassifier(
                k, metric="cosine", algorithm="brute", weights=lambda away: np.exp(-away / temperature)
            )
            predictions = neighbours.fit(features, labels).predict(queries)
            found[f"acc1_k{k}"] = float((predictions == truth).mean())
        return found


class EccvCaption:
    """Hand ranked lists to the package that defines ECCV Caption."""

    name = "eccv-caption"

    def objection(self, task: Task) -> None:
        """Judge every task of the kind."""

    def prepared(self, task: Task) -> Task:
        """Run the task as it is."""
        return task

    def answer(self, task: Task, encoder: SharedEncoder, record: Record) -> Answer:
        """Rank captions for each image, and images for each caption, as far as the package looks."""
        truth = load_truth()
        images, texts = self._embed(encoder, task, truth)
        recall_at = task.settings.model_dump()["recall_at"]
        return Answer(self.score(images, texts, truth, recall_at), slack=1e-6)

    def _embed(self, encoder: SharedEncoder, task: Task, truth: GroundTruth) -> tuple[Tensor, Tensor]:
        data = encoder.open(task.data)
        places = places_of(data, truth.image_ids, task.settings.model_dump()["order"])
        captions = tuple(caption for place in places for caption in data.captions[place][:PER_IMAGE])
        return encoder.images(data).cpu()[torch.tensor(places)], encoder.texts(captions).cpu()

    def score(self, images: Tensor, texts: Tensor, truth: GroundTruth, recall_at: Sequence[int]) -> dict[str, float]:
        """Return every metric of the package for embeddings in the order of its ground truth."""
        from eccv_caption import Metrics

        captions, pictures = torch.tensor(truth.caption_ids), torch.tensor(truth.image_ids)
        of_images = _ranked(images, texts, pictures, captions, PER_IMAGE * LISTED)
        of_captions = _ranked(texts, images, captions, pictures, LISTED)
        names = {
            "eccv_r1": "eccv_{}_recall@1",
            "eccv_rprecision": "eccv_{}_r_precision",
            "eccv_map_at_r": "eccv_{}_map_at_r",
        }
        recalls = ("coco_1k", "coco_5k", "cxc")
        names |= {f"{name}_r{k}": f"{name}_{{}}_recall@{k}" for name in recalls for k in recall_at}
        wanted = ["eccv_r1", "eccv_map_at_r", "eccv_rprecision", *(f"{name}_recalls" for name in recalls)]
        found = Metrics().compute_all_metrics(of_images, of_captions, target_metrics=wanted, Ks=list(recall_at))
        sides = (("i2t", "image_to_text"), ("t2i", "text_to_image"))
        return {
            ours.format(direction): float(found[theirs][side])
            for theirs, ours in names.items()
            for side, direction in sides
        }


def _ranked(queries: Tensor, items: Tensor, query_ids: Tensor, item_ids: Tensor, listed: int) -> Ranked:
    found: Ranked = {}
    for rows, ids in zip(queries.split(CHUNK), query_ids.split(CHUNK), strict=True):
        best = item_ids[(rows @ items.T).topk(listed).indices].tolist()
        found |= dict(zip(ids.tolist(), best, strict=True))
    return found
