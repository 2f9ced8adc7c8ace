"""Do images of a class lie together? k-means on frozen features."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch.nn import functional

from vlp.evaluators.base import Seed, check_classes, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.probes.clusters import find_clusters, score_clusters
from vlp.evaluators.probes.train_split import Features, read_features
from vlp.evaluators.shared import SharedEncoder
from vlp.ground import dist
from vlp.ground.types import Evaluation, RecipeError


@evaluators.register("clustering")
class Clustering:
    """Cluster the images by k-means and compare the clusters with the classes; no label is learned from.

    `nmi` is normalised mutual information with the mean of both entropies (the V-measure), `ari` the adjusted Rand
    index (Hubert & Arabie 1985), as scikit-learn computes them; `cluster_accuracy` gives each cluster a class of its
    own by the Hungarian method (Yang et al. 2010). Intervals speak of the choice of images, not of k-means's starts.

    Args:
        clusters: How many; as many as classes when absent.
        starts: How often k-means starts; the tightest clusters count.
        features: `projected` embeddings, or those of the `backbone`, before the projection, brought to unit norm.
        seed: Where k-means starts.
    """

    texts: tuple[str, ...] = ()

    def __init__(
        self,
        data: EvaluationSet,
        *,
        clusters: int | None = None,
        starts: int = 10,
        features: Features = "projected",
        seed: Seed = 0,
    ):
        check_classes(data)
        number = len(data.class_names) if clusters is None else clusters
        if not 2 <= number <= len(data):
            raise RecipeError(f"settings.clusters: {number} clusters of {len(data)} images; give 2 to {len(data)}")
        if starts < 1:
            raise RecipeError(f"settings.starts is {starts}; k-means starts at least once")
        self.data, self.number, self.starts, self.features, self.seed = data, number, starts, features, seed

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed the images and cluster them on the main process."""
        rows = functional.normalize(read_features(encoder, self.data, self.features).features, dim=1)
        clusters, left = dist.on_main(partial(find_clusters, rows, self.number, self.starts, self.seed))
        found = score_clusters(clusters, np.array(self.data.labels))
        return Evaluation(found.metrics, found.details | {"squares_left": left}, found.samples)
