"""Soft assignments of images to texts that use every text alike, predicted from another view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.soft import Offsets, expected_logits, frozen_block
from vlp.pairs import LSE, Block, Pairs, Request, Stats, given, pair_stats

ROWS = LSE("row", kernel=given("of columns"), mask="twin")
COLUMNS = LSE("column", kernel=given("of rows"), mask="twin")


@terms.register("swalip")
class SwalipTerm(Term):
    """Predict from each view how the complementary views of the batch's images and texts share each other out evenly.

    SwALIP, Fini et al. 2023 (arXiv:2305.08675): each modality is the set of prototypes of the other, the
    targets come from a few Sinkhorn iterations. For batches with further views (strategies.image_views); with one view
    of each the pair's own targets are used, without gradient. Costs two walks of the matrix per iteration and pair of
    views. The authors' weight is 0.2.

    Formula: mean_i lse_j z_ij - sum_j Q_ij z_ij in both directions; Q_ij = exp(cosine'_ij / sharpness + u_i + v_j) of
    the complementary views with columns of equal mass, then rows that sum to one

    Args:
        sharpness: Temperature of the assignments.
        num_iterations: Of Sinkhorn.

    Raises:
        ValueError: One of them is not positive.
    """

    gradient_is_slope = False
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")
    reads_views = True
    requests = {"image_text": (rows, columns)}

    def __init__(self, *, sharpness: float = 0.05, num_iterations: int = 3):
        super().__init__()
        if sharpness <= 0 or num_iterations < 1:
            raise ValueError(f"sharpness {sharpness} and num_iterations {num_iterations} must be positive")
        self.sharpness = sharpness
        self.num_iterations = num_iterations

    def plan(self, pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        return {f"{i}_{t}": (self.rows, self.columns) for i in pairs.image_names for t in pairs.text_names}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        images, texts = pairs.image_names, pairs.text_names
        losses = [
            self._loss(pairs, stats, (image, text), (_after(images, image), _after(texts, text)))
            for image in images
            for text in texts
        ]
        return pairs.mean(torch.stack(losses).mean(dim=0))

    def _loss(self, pairs: Pairs, stats: Stats, names: tuple[str, str], others: tuple[str, str]) -> Float[Tensor, " n"]:
        """Return each sample's loss in the views `names`, with targets from the views `others`."""
        image, text = names
        scale = torch.full_like(pairs.scale, 1 / self.sharpness)
        teacher = frozen_block(pairs.side(others[0]), pairs.side(others[1]), scale)
        block = pairs.block_of(pairs.side(image), pairs.side(text))
        expected = expected_logits(pairs, block, teacher, *sinkhorn(pairs, teacher, self.num_iterations))
        right = pairs.scale * (pairs.view(image) * pairs.view(text)).sum(dim=1)
        wrong = (stats[f"{image}_{text}", request] for request in (self.rows, self.columns))
        losses = [torch.logaddexp(right, w) - e for w, e in zip(wrong, expected, strict=True)]
        return (losses[0] + losses[1]) / 2


def _after(names: tuple[str, ...], name: str) -> str:
    return names[(names.index(name) + 1) % len(names)]


@torch.no_grad()
def sinkhorn(pairs: Pairs, block: Block, num_iterations: int) -> tuple[Offsets, Offsets]:
    """Return what makes exp(logits + offsets) even: columns alike and rows of sum one; and the other way round.

    Args:
        num_iterations: Of both; each ends with the rows, or the columns, whose sum is exact.
    """
    nothing = pairs.gather(torch.zeros_like(pairs.positive_cosines))
    (u, v), (other_u, other_v) = (nothing, nothing), (nothing, nothing)
    for _ in range(num_iterations):
        other_u, v = _balance(pairs, block, u, other_v)
        u, other_v = _balance(pairs, block, other_u, v)
    return (u, v), (other_u, other_v)


def _balance(pairs: Pairs, block: Block, rows: Tensor, columns: Tensor) -> Offsets:
    """Return what each row needs, given numbers for all columns, and each column, given numbers for all rows."""
    offsets = {"of columns": (torch.ones_like(rows), columns), "of rows": (rows, torch.ones_like(columns))}
    sides = [
        replace(side, references={name: numbers[k][:, None] for name, numbers in offsets.items()})
        for k, side in enumerate((block.rows, block.columns))
    ]
    stats = pair_stats(
        {"even": replace(block, rows=sides[0], columns=sides[1])}, {"even": (ROWS, COLUMNS)}, pairs.group
    )
    needs = -torch.stack([stats["even", ROWS], stats["even", COLUMNS]], dim=1)
    row_needs, column_needs = pairs.gather(needs).unbind(dim=1)
    return row_needs, column_needs
