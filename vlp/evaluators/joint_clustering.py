"""Do images and texts of a class lie together? k-means on the rows of both."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from vlp.evaluators.base import Seed, check_classes, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import linearised
from vlp.evaluators.probes.clusters import Cells, find_clusters, influences_of, score_clusters
from vlp.evaluators.prompts import prompts_of
from vlp.evaluators.shared import SharedEncoder
from vlp.ground import dist
from vlp.ground.types import Evaluation, RecipeError


@evaluators.register("joint_clustering")
class JointClustering:
    """Cluster images and prompts in one space and compare the clusters with the classes, as `clustering` does.

    A gap between modalities splits the clusters: Grassucci et al. 2026 (arXiv:2601.18525) and Role et al. 2025
    (arXiv:2505.03703) judge it so. `joint_modality_nmi` is the mutual information of clusters and modalities, as a
    share of the mean of their entropies: 0 where each cluster mixes images and texts as all rows do.

    Args:
        prompts: File relative to `eval/`: templates, or for each class its own prompts; the set's own when absent. Each
            prompt of a class is a row of that class.
        clusters: How many; as many as classes when absent.
        starts: How often k-means starts; the tightest clusters count.
        seed: Where k-means starts.
    """

    def __init__(
        self,
        data: EvaluationSet,
        *,
        prompts: str | None = None,
        clusters: int | None = None,
        starts: int = 10,
        seed: Seed = 0,
    ):
        check_classes(data)
        self.prompts = prompts_of(data, prompts)
        self.texts = self.prompts.texts
        self.number = len(data.class_names) if clusters is None else clusters
        most = len(data) + len(self.texts)
        if not 2 <= self.number <= most:
            raise RecipeError(f"settings.clusters: {self.number} clusters of {most} rows; give 2 to {most}")
        if starts < 1:
            raise RecipeError(f"settings.starts is {starts}; k-means starts at least once")
        self.data, self.starts, self.seed = data, starts, seed

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and prompts and cluster them on the main process."""
        images, texts = encoder.images(self.data), encoder.texts(self.texts)
        rows = torch.cat([images, texts.to(images.device)])
        classes = np.concatenate(
            [self.data.labels, np.repeat(np.arange(len(self.prompts.counts)), self.prompts.counts)]
        )
        modalities = np.repeat([0, 1], [len(images), len(texts)])
        clusters, left = dist.on_main(partial(find_clusters, rows, self.number, self.starts, self.seed))
        found = score_clusters(clusters, classes, "joint_")
        apart = score_clusters(clusters, modalities).metrics[0].value
        influences = influences_of(Cells.mutual_information, clusters, modalities)
        metrics = (*found.metrics, linearised("joint_modality_nmi", apart, influences))
        return Evaluation(metrics, found.details | {"squares_left": left, "texts": len(texts)}, found.samples)
