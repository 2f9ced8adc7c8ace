"""Soft targets over the whole batch that never exist as a matrix: exp(teacher's logit + row's number + column's)."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.pairs import KMEAN, Block, Pairs, Side, given, pair_stats

# means, although the weights sum to one: rounding errors that all weights share drop out
ROWS, COLUMNS = KMEAN("row", given("by row"), "twin"), KMEAN("column", given("by column"), "twin")
Offsets = tuple[Float[Tensor, " b"], Float[Tensor, " b"]]
"""What is added to every logit of a row, and of a column, of the whole batch."""


def frozen_block(rows: Side, columns: Side, scale: Tensor) -> Block:
    """Return a similarity matrix that gives no gradient."""
    frozen_rows, frozen_columns = (replace(side, local=side.local.detach()) for side in (rows, columns))
    return Block(frozen_rows, frozen_columns, scale.detach(), torch.zeros_like(scale))


def expected_logits(
    pairs: Pairs, block: Block, teacher: Block, by_row: Offsets, by_column: Offsets
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the sum of each local row's, and each local column's, logits under soft targets without gradient.

    Args:
        block: What learns.
        teacher: As many rows and columns; the targets follow from its logits.
        by_row: Makes the targets of each row sum to one; `by_column`: those of each column.
    """
    rows, columns = {}, {}
    for request, (row, column) in ((ROWS, by_row), (COLUMNS, by_column)):
        ones = torch.ones_like(row)
        rows[request.kernel.of] = torch.cat(
            [teacher.scale * teacher.rows.everyone, torch.stack([row, ones], dim=1)], dim=1
        )
        columns[request.kernel.of] = torch.cat([teacher.columns.everyone, torch.stack([ones, column], dim=1)], dim=1)
    weighed = replace(
        block, rows=replace(block.rows, references=rows), columns=replace(block.columns, references=columns)
    )
    stats = pair_stats({"soft": weighed}, {"soft": (ROWS, COLUMNS)}, pairs.group)
    return stats["soft", ROWS], stats["soft", COLUMNS]
