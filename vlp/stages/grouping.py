"""Mini-batch k-means over stored embeddings: which group each sample of a card belongs to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from tqdm import tqdm

from vlp.data.sample_groups import read_group_folder, write_groups
from vlp.embeddings.parts import parts_of, read_manifest
from vlp.ground.types import RecipeError

ROWS = 1024
"""That move the centres at a time, or ten for each centre where that is more."""
PASSES = 10


def cluster(embeddings: Path, to: Path, *, clusters: int, seed: int, within: Path | None = None) -> list[int]:
    """Write the group of each sample, and return the sizes of the groups.

    Sculley 2010 (mini-batch k-means), from scikit-learn, on unit embeddings of images, part by part. A sample's group
    is its cluster here and its group before, taken together (Zhang et al. 2024, section 4.1, arXiv:2402.11816).
    Samples without an embedding are in no group.

    Args:
        embeddings: Folder of embeddings of a card's images (`vlp embed`).
        to: Folder to write.
        clusters: How many.
        seed: Where the centres start, and the order of the parts.
        within: Folder of the groups before.

    Raises:
        RecipeError: No whole embeddings of images there, or of fewer samples than clusters.
    """
    manifest = read_manifest(embeddings)
    model = _fit(embeddings, clusters, seed)
    groups = np.full(manifest["samples"], -1, dtype=np.int64)
    for ids, rows in parts_of(embeddings, "images"):
        if len(rows):
            groups[ids] = model.predict(_unit(rows))
    chain = [str(embeddings)]
    if within is not None:
        told, before = read_group_folder(within)
        chain = [*told["clustered"], *chain]
        groups = np.where((groups < 0) | (before < 0), -1, before * clusters + groups)
    about = {"fingerprint": manifest["fingerprint"], "card": manifest["data"], "clusters": clusters, "seed": seed}
    write_groups(to, groups, about | {"clustered": chain})
    return np.bincount(groups[groups >= 0]).tolist()


def _fit(embeddings: Path, clusters: int, seed: int) -> MiniBatchKMeans:
    size = max(ROWS, 10 * clusters)
    model = MiniBatchKMeans(n_clusters=clusters, batch_size=size, random_state=seed, n_init=3)
    early: list[Float32[NDArray[np.float32], "m d"]] = []  # too few rows, as a last part may have, for centres to begin
    for number in tqdm(range(PASSES), desc="clustering", unit=" passes"):
        draws = np.random.default_rng((seed, number))
        for _ids, rows in parts_of(embeddings, "images", order=draws):
            early.append(_unit(rows)[draws.permutation(len(rows))])
            found = np.concatenate(early)
            if len(found) < (1 if hasattr(model, "cluster_centers_") else clusters):
                continue
            for chunk in _chunks(found, size):
                model.partial_fit(chunk)
            early = []
        if not hasattr(model, "cluster_centers_"):
            number_there = sum(map(len, early))
            raise RecipeError(f"--clusters: {clusters} are more than the {number_there} samples with an embedding")
    return model


def _chunks(rows: Float32[NDArray[np.float32], "n d"], size: int) -> list[Float32[NDArray[np.float32], "m d"]]:
    """Return rows in equal pieces of about a size."""
    return np.array_split(rows, max(1, round(len(rows) / size)))


def _unit(rows: NDArray[np.floating]) -> Float32[NDArray[np.float32], "n d"]:
    wide = rows.astype(np.float32)
    unit: Float32[NDArray[np.float32], "n d"] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit
