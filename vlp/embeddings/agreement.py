"""How much two models agree about the same samples, from the embeddings that `vlp embed` wrote of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vlp.embeddings.parts import Side, read_embeddings, read_manifest
from vlp.evaluators.cka import linear_cka
from vlp.evaluators.intervals import mean, proportion
from vlp.ground.tabular import aligned, interval
from vlp.ground.types import Metric, RecipeError

CHUNK = 512
SIDES: tuple[Side, ...] = ("images", "texts")


@dataclass(frozen=True)
class Agreement:
    """What two models have in common.

    Args:
        samples: Samples that both have embedded; 0 where weights alone are compared.
        metrics: By name; those of embeddings for each side that both have.
    """

    samples: int
    metrics: tuple[Metric, ...]

    def __str__(self) -> str:
        rows = [("number", "value", "95 % interval")]
        rows += [(each.name, f"{each.value:.4f}", interval(each.low, each.high)) for each in self.metrics]
        head = [f"{self.samples:,} samples in both"] if self.samples else []
        return "\n".join([*head, *aligned(rows, right=[1])])


def compare_embeddings(first: Path, second: Path) -> Agreement:
    """Compare what two models, or two checkpoints of one, say of the samples that both embedded.

    `cka_images` and `cka_texts` are 1 for spaces that differ by a rotation (see `linear_cka`); `moved_images` and
    `moved_texts` are the mean of one minus the cosine of a sample's two embeddings, for models of one width, such as a
    model and its teacher; `same_text` and `same_image` are the shares of samples for which both find the same first.

    Args:
        first: Folder of `vlp embed`.
        second: Another of the same data.

    Raises:
        RecipeError: A folder is not complete, or they are of other data or no common side.
    """
    both = [read_manifest(folder) for folder in (first, second)]
    if both[0]["fingerprint"] != both[1]["fingerprint"]:
        names = " and ".join(f"{manifest['data']} ({manifest['fingerprint']})" for manifest in both)
        raise RecipeError(f"{first} and {second} are of other data: {names}; embed the same card")
    sides = [side for side in SIDES if all(side in manifest["sides"] for manifest in both)]
    if not sides:
        raise RecipeError(f"{first} and {second} have no side in common; embed with --sides images texts")
    rows = {side: _common(first, second, side) for side in sides}
    size = len(rows[sides[0]][0])
    if size < 4:
        raise RecipeError(f"{size} samples of {both[0]['data']} are embedded in both, and a comparison takes 4")
    metrics: list[Metric] = []
    for side, (one, other) in rows.items():
        metrics.append(linear_cka(one, other).as_metric(f"cka_{side}"))
        if one.shape[1] == other.shape[1]:
            metrics.append(mean(f"moved_{side}", (1 - torch.cosine_similarity(one, other)).clamp(min=0).numpy()))
    if len(sides) == 2:
        (images, their_images), (texts, their_texts) = (rows[side] for side in SIDES)
        for name, ours, theirs in (
            ("same_text", (images, texts), (their_images, their_texts)),
            ("same_image", (texts, images), (their_texts, their_images)),
        ):
            metrics.append(proportion(name, int((_first(*ours) == _first(*theirs)).sum()), size))
    return Agreement(size, tuple(metrics))


def _common(first: Path, second: Path, side: Side) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, "n e"]]:
    (ids, rows), (their_ids, their_rows) = (read_embeddings(folder, side) for folder in (first, second))
    _, places, their_places = np.intersect1d(ids, their_ids, assume_unique=True, return_indices=True)
    one, other = (torch.from_numpy(rows[places]).double(), torch.from_numpy(their_rows[their_places]).double())
    return one, other


def _first(queries: Float64[Tensor, "n d"], items: Float64[Tensor, "n d"]) -> Tensor:
    return torch.cat([(rows @ items.T).argmax(1) for rows in queries.split(CHUNK)])
