"""What an attack does to features, block by block, and to the shape of the embedding space."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float32
from torch import Tensor

from vlp.evaluators.cka import linear_cka
from vlp.evaluators.geometry import log_kernel
from vlp.evaluators.intervals import mean
from vlp.evaluators.moments import centroid_distance
from vlp.ground.types import Metric
from vlp.robust.findings import Outcome

FEWEST = 5  # samples that CKA says something of, and how sure it is


def diagnose(
    clean: Outcome, attacked: Outcome, texts: Float32[Tensor, "n d"], *, label: str, radius: float
) -> dict[str, Any] | None:
    """Return how alike features are before and after an attack, and what it does to gap and uniformity, as plain JSON.

    `cka_by_block` is the linear CKA (Kornblith et al. 2019, arXiv:1905.00414) of each block's clean and attacked
    features, `cka_of_embeddings` that of the embeddings; `cka_between_blocks`, of clean features and of attacked ones,
    says how much blocks repeat each other: full adversarial training after contrastive pretraining is said to make
    later blocks less redundant (Ghofrani et al. 2023, arXiv:2302.02502). Gap, alignment and uniformity are those of the
    geometry evaluator.

    Args:
        clean: At radius 0.
        texts: What is right for each image.

    Returns:
        None where there are too few samples.
    """
    if len(clean.rows) < FEWEST:
        return None
    shapes = {name: _shape(outcome.rows, texts) for name, outcome in (("clean", clean), ("attacked", attacked))}
    return {
        "attack": label,
        "radius": radius,
        "cka_by_block": [_cka(*pair) for pair in zip(clean.layers, attacked.layers, strict=True)],
        "cka_of_embeddings": _cka(clean.rows, attacked.rows),
        "cka_between_blocks": {
            name: [[_cka(one, other)["value"] for other in outcome.layers] for one in outcome.layers]
            for name, outcome in (("clean", clean), ("attacked", attacked))
        },
        "geometry": {
            metric.name: {name: _laid(shape[number]) for name, shape in shapes.items()}
            for number, metric in enumerate(shapes["clean"])
        },
    }


def _cka(one: Tensor, other: Tensor) -> dict[str, float | None]:
    return _laid(linear_cka(one.double(), other.double()).as_metric("cka"))


def _shape(images: Float32[Tensor, "n d"], texts: Float32[Tensor, "n d"]) -> tuple[Metric, ...]:
    rows, own = images.double(), texts.double()
    return (
        centroid_distance(rows, own).as_metric("modality_gap"),
        mean("alignment", (rows - own).square().sum(dim=1).numpy()),
        log_kernel(rows, rows).as_metric("uniformity_image"),
    )


def _laid(metric: Metric) -> dict[str, float | None]:
    return {"value": metric.value, "low": metric.low, "high": metric.high}
