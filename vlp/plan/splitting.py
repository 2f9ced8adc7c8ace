"""What FSDP2 leaves on each device of the parameters that it splits, and what travels for that."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from vlp.towers.blocks import blocks_of

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class SplitRows:
    """Parameters that are split alike.

    Args:
        rows: Size of their first axis, along which they are split.
        numbers: In all of them.
        trained: Whether they are.
        in_block: Whether they belong to blocks of the towers, which are gathered in the recipe's precision.
    """

    rows: int
    numbers: int
    trained: bool
    in_block: bool

    def share(self, parts: int) -> int:
        """Return the numbers that one of so many devices has memory for: ceil(rows / parts) rows.

        FSDP2 cuts as `torch.chunk` does, and pads what the last devices hold to the size of the first one's piece:
        collectives exchange equal pieces. A vector of 5 on 4 devices takes 2 numbers on each; 2, 2, 1 and 0 are used.
        """
        return math.ceil(self.rows / parts) * self.numbers // self.rows


def rows_of(towers: nn.Module, parts: Iterable[nn.Module | None]) -> tuple[SplitRows, ...]:
    """Count the parameters of towers by how they are split.

    Args:
        parts: The towers one by one, whose blocks are units of their own.
    """
    blocks = (block for part in parts if part is not None for block in blocks_of(part))
    in_blocks = {id(parameter) for block in blocks for parameter in block.parameters()}
    found: Counter[tuple[int, bool, bool]] = Counter()
    for parameter in towers.parameters():
        rows = parameter.shape[0] if parameter.ndim else 1
        found[rows, parameter.requires_grad, id(parameter) in in_blocks] += parameter.numel()
    return tuple(SplitRows(rows, numbers, *kind) for (rows, *kind), numbers in sorted(found.items()))


@dataclass(frozen=True)
class Sent:
    """What one device sends in one step.

    Args:
        within: Bytes to the devices that share its copy of the parameters: gathered weights, and gradients.
        between: Bytes to those that hold the same part in other copies: gradients.
    """

    within: float
    between: float


def sent_in_step(rows: Iterable[SplitRows], parts: int, copies: int, *, gathered: int, micro_batches: int) -> Sent:
    """Count what rings of devices send, each to its neighbour, for sharded parameters.

    With p bytes of weights on each of S devices, a gathering sends (S - 1) p; blocks are gathered for the forward and
    again for the backward pass, the rest once. Adding up gradients of g bytes on each (float32) sends (S - 1) g within
    a copy, and 2 (R - 1) / R g between R copies (HSDP), of the part alone. Padding travels too. Every micro-batch does
    all of it, and where there are several, blocks are gathered once more, for the pass without gradients.

    Args:
        parts: S, the devices that share a copy.
        copies: R.
        gathered: Bytes of a number of a block on its way.
    """
    passes = 2 if micro_batches == 1 else 3
    weights = gradients = 0
    for each in rows:
        share = each.share(parts)
        weights += share * (passes * gathered if each.in_block else FLOAT32)
        gradients += share * FLOAT32 * each.trained
    return Sent(
        micro_batches * (parts - 1) * (weights + gradients),
        micro_batches * 2 * (copies - 1) / copies * gradients,
    )
