"""Learning from one to sixteen images of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vlp.evaluators.base import Seed, check_classes, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.probes.few import check_draws, deal_draws, draw_few, mean_over_draws
from vlp.evaluators.probes.logistic import LabelledRows, fit
from vlp.evaluators.probes.penalties import search_penalty
from vlp.evaluators.probes.train_split import Features, SplitFeatures, open_full_split, read_features
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, RecipeError

MOST_HELD_OUT = 4


@evaluators.register("few_shot")
class FewShot:
    """Learn from a few images of each class, over several draws of them, and score all images of the split of the task.

    `linear_acc1_4shot` is logistic regression on frozen features, its penalty searched as `linear_probe` does on
    min(shots, 4) further images of each class, which are not learned from: the protocol of Radford et al. 2021
    (arXiv:2103.00020), figure 6, as Zhou et al. 2022 (arXiv:2109.01134) completed it. `nearest_mean_acc1_4shot` is the
    class whose mean of unit norm is nearest (Snell et al. 2017, arXiv:1703.05175, with cosines); nothing is searched.
    Intervals take both draws and test images as chance. A draw of more shots contains that of fewer.

    Args:
        shots: Images of each class to learn from.
        draws: How often they are drawn, at least twice.
        train_split: Folder of the shards that are drawn from.
        features: `projected` embeddings of unit norm, or those of the `backbone`, before the projection.
        l2: The penalty, to use one without a search and without further images.
        seed: Which images are drawn.
    """

    texts: tuple[str, ...] = ()

    def __init__(
        self,
        data: EvaluationSet,
        *,
        shots: tuple[int, ...] = (1, 2, 4, 8, 16),
        draws: int = 5,
        train_split: str = "train",
        features: Features = "projected",
        l2: float | None = None,
        seed: Seed = 0,
    ):
        check_classes(data)
        check_draws(shots, draws)
        if l2 is not None and not l2 > 0:
            raise RecipeError(f"settings.l2 is {l2}; give a positive one")
        self.data, self.shots, self.draws, self.train_split = data, shots, draws, train_split
        self.features, self.l2, self.seed = features, l2, seed

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed both splits, learn from draws dealt to all processes, and score."""
        opened = open_full_split(encoder, self.data, self.train_split)
        train = read_features(encoder, opened, self.features)
        test = read_features(encoder, self.data, self.features)
        learned = deal_draws(self.shots, self.draws, lambda number, draw: self._learn(number, draw, train, test))
        metrics, samples, told = [], {}, {}
        for number, found in learned.items():
            hits = {
                f"linear_acc1_{number}shot": np.stack([each.linear for each in found]),
                f"nearest_mean_acc1_{number}shot": np.stack([each.nearest_mean for each in found]),
            }
            for name, rows in hits.items():
                metric, samples[name] = mean_over_draws(name, rows)
                metrics.append(metric)
                told[name] = rows.mean(axis=1).tolist()
            told[f"l2_{number}shot"] = [each.l2 for each in found]
        details = {"draws": told, "learned_from": [train.told()], "width": train.features.shape[1]}
        return Evaluation(tuple(metrics), details, samples)

    def _learn(self, number: int, draw: int, train: SplitFeatures, test: SplitFeatures) -> OneDraw:
        further = 0 if self.l2 is not None else min(number, MOST_HELD_OUT)
        places = draw_few(np.array(train.data.labels), number + further, self.seed, draw)
        few, held_out = (
            LabelledRows(train.features[chosen], train.labels[chosen], len(places))
            for chosen in (torch.from_numpy(part.reshape(-1)) for part in (places[:, :number], places[:, number:]))
        )
        if self.l2 is None:
            search = search_penalty(few, held_out)
            classifier, penalty = fit(few, search.penalty, start=search.start), search.penalty
        else:
            classifier, penalty = fit(few, self.l2), self.l2
        found = (classifier.predict(test.features), nearest_mean(few, test.features))
        linear, mean = ((predictions == test.labels).cpu().numpy() for predictions in found)
        return OneDraw(linear, mean, penalty)


@dataclass(frozen=True)
class OneDraw:
    """Whether each test image was right, after learning from one draw."""

    linear: NDArray[np.bool_]
    nearest_mean: NDArray[np.bool_]
    l2: float


def nearest_mean(few: LabelledRows, features: Float[Tensor, "n d"]) -> Int64[Tensor, " n"]:
    """Return the class whose mean of rows of unit norm has the largest cosine with each feature."""
    rows = functional.normalize(few.features.double(), dim=1)
    sums = rows.new_zeros(few.num_classes, rows.shape[1]).index_add_(0, few.labels, rows)
    return (features.double() @ functional.normalize(sums, dim=1).T).argmax(dim=1)
