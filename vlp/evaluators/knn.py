"""Nearest neighbours among the images of the training split."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vlp.evaluators.base import check_classes, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.groups import count_groups, ones
from vlp.evaluators.intervals import proportion
from vlp.evaluators.probes.dealing import deal
from vlp.evaluators.probes.train_split import Features, open_split, read_features
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, Metric, PerSample, RecipeError

CHUNK = 512


@evaluators.register("knn")
class NearestNeighbours:
    """Let the k most similar training images vote, each with exp(cosine / temperature), for several k.

    Wu et al. 2018 (arXiv:1805.01978), section 3.4; DINO takes k = 10, 20, 100, 200 and quotes 20 (Caron et al. 2021,
    arXiv:2104.14294). Nothing is trained or chosen. Of classes with equal votes the first wins.

    Args:
        k: Numbers of neighbours; `acc1_k20` is the accuracy with 20.
        temperature: How much nearer neighbours count more.
        train_split: Folder of the shards in which neighbours are looked for.
        features: `projected` embeddings, or those of the `backbone`, before the projection, brought to unit norm.
    """

    texts: tuple[str, ...] = ()

    def __init__(
        self,
        data: EvaluationSet,
        *,
        k: tuple[int, ...] = (10, 20, 100, 200),
        temperature: float = 0.07,
        train_split: str = "train",
        features: Features = "projected",
    ):
        check_classes(data)
        if not k or min(k) < 1 or len(set(k)) < len(k):
            raise RecipeError(f"settings.k is {list(k)}; give different numbers of neighbours, each at least 1")
        if not temperature > 0:
            raise RecipeError(f"settings.temperature is {temperature}; it must be positive")
        self.data, self.k, self.temperature = data, k, temperature
        self.train_split, self.features = train_split, features

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed both splits and count votes, test images dealt to all processes."""
        opened = open_split(encoder, self.data, self.train_split, "train_split")
        if max(self.k) > len(opened):
            raise RecipeError(
                f"settings.k: {max(self.k)} neighbours, and '{self.train_split}' has {len(opened)} images"
            )
        train = read_features(encoder, opened, self.features)
        test = read_features(encoder, self.data, self.features)
        rows = functional.normalize(train.features, dim=1)
        queries = functional.normalize(test.features, dim=1).split(CHUNK)
        num_classes = len(self.data.class_names)

        def vote(piece: int) -> NDArray[np.int64]:
            return predict(queries[piece], rows, train.labels, num_classes, self.k, self.temperature).cpu().numpy()

        predictions = np.concatenate(deal(len(queries), vote), axis=1)
        found = [_score(k, row, np.array(self.data.labels)) for k, row in zip(self.k, predictions, strict=True)]
        return Evaluation(
            tuple(metric for metrics, _ in found for metric in metrics),
            {
                "class_names": list(self.data.class_names),
                "predictions": {f"k{k}": row.tolist() for k, row in zip(self.k, predictions, strict=True)},
                "learned_from": [train.told()],
                "width": rows.shape[1],
            },
            {name: sample for _, samples in found for name, sample in samples.items()},
        )


def predict(
    queries: Float32[Tensor, "q d"],
    known: Float32[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    num_classes: int,
    numbers: tuple[int, ...],
    temperature: float,
) -> Int64[Tensor, "k q"]:
    """Return the class of each query for each number of neighbours."""
    cosines, places = (queries @ known.T).topk(max(numbers), dim=1)
    weights = ((cosines.double() - cosines[:, :1]) / temperature).exp()  # relative to the nearest, so that none is inf
    classes = labels[places]
    found = []
    for number in numbers:
        votes = torch.zeros(len(queries), num_classes, dtype=torch.float64, device=queries.device)
        found.append(votes.scatter_add_(1, classes[:, :number], weights[:, :number]).argmax(dim=1))
    return torch.stack(found)


def _score(
    number: int, predictions: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[tuple[Metric, Metric], dict[str, PerSample]]:
    hits = predictions == labels
    names = f"acc1_k{number}", f"mean_per_class_recall_k{number}"
    metrics = proportion(names[0], int(hits.sum()), len(hits)), count_groups(hits, labels).mean(names[1])
    samples = {names[0]: PerSample(ones(hits)), names[1]: PerSample(ones(hits), labels.tolist())}
    return metrics, samples
