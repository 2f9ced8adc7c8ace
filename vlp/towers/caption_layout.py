"""Where the captions of a batch lie when they are put one behind the other, for a text tower that runs once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int32, Int64
from numpy.typing import NDArray
from torch import Tensor

from vlp.ground.types import send

FEWEST = 2  # captions of a group: compiled code is made anew for one


class CaptionLayout(NamedTuple):
    """Where captions lie in one row of all their tokens.

    Either group behind group, each padded to its longest caption, or caption behind caption, without padding.

    Args:
        tokens: Which token of the flattened captions stands at each place.
        positions: At which position of its caption.
        starts: The place of each caption's first token, in the captions' own order.
        groups: Captions and tokens of each group; none where there is no padding.
        bounds: Where each caption begins, and where the last one ends, if there is no padding.
        longest: Tokens of the longest caption.
    """

    tokens: Int64[Tensor, " t"]
    positions: Int64[Tensor, " t"]
    starts: Int64[Tensor, " n"]
    groups: tuple[tuple[int, int], ...]
    bounds: Int32[Tensor, " m"] | None
    longest: int


def lay_out(
    lengths: Int64[NDArray[np.int64], " n"], width: int, num_groups: int, device: torch.device
) -> CaptionLayout:
    """Lay captions out so that few places are padding; nothing waits for the device.

    Args:
        lengths: Tokens of each caption, on the CPU.
        width: Tokens of a row of the tensor that holds them.
        num_groups: At most so many.
    """
    order = np.argsort(lengths, kind="stable")
    starts = np.empty_like(order)
    groups, tokens, positions, first, place = [], [], [], 0, 0
    for count, longest in cut(lengths, num_groups):
        group = order[first : first + count]
        within = np.arange(longest)
        starts[group] = place + longest * np.arange(count)
        tokens.append((group[:, None] * width + within).ravel())
        positions.append(np.tile(within, count))
        groups.append((count, longest))
        first, place = first + count, place + count * longest
    sent = send(torch.from_numpy(np.concatenate([*tokens, *positions, starts])), device)  # in one piece
    tokens_at, positions_at, starts_at = sent.split([place, place, len(starts)])
    return CaptionLayout(tokens_at, positions_at, starts_at, tuple(groups), None, int(lengths.max()))


def lay_out_unpadded(lengths: Int64[NDArray[np.int64], " n"], width: int, device: torch.device) -> CaptionLayout:
    """Lay captions out in their own order, without a place of padding; nothing waits for the device.

    Args:
        lengths: Tokens of each caption, on the CPU.
        width: Tokens of a row of the tensor that holds them.
    """
    count, bounds = len(lengths), np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
    tokens = np.repeat(width * np.arange(count), lengths) + positions
    sent = send(torch.from_numpy(np.concatenate([tokens, positions, bounds])), device)  # in one piece
    tokens_at, positions_at, bounds_at = sent.split([len(tokens), len(tokens), count + 1])
    return CaptionLayout(tokens_at, positions_at, bounds_at[:-1], (), bounds_at.to(torch.int32), int(lengths.max()))


def cut(lengths: Int64[NDArray[np.int64], " n"], num_groups: int) -> list[tuple[int, int]]:
    """Return captions and tokens of each group, the shortest first, such that padding is least.

    Dynamic programming over where sorted captions may be cut: behind the last of a length, or before it, so that a
    longer one need not stand alone.
    """
    ordered = np.sort(lengths)
    ends = np.flatnonzero(np.diff(ordered, append=ordered[-1] + 1)) + 1
    cuts = np.unique(np.concatenate([[0], ends - 1, ends]))
    held = cuts[None, :] - cuts[:, None]
    longest = ordered[cuts - 1]  # of what ends at a cut
    places = np.where(held >= min(FEWEST, len(ordered)), held * longest, np.inf)
    np.fill_diagonal(places, 0)  # a group may stay empty
    least, steps = np.where(cuts == 0, 0.0, np.inf), []
    for _ in range(num_groups):
        ways = least[:, None] + places
        steps.append(ways.argmin(axis=0))
        least = ways.min(axis=0)
    groups, end = [], len(cuts) - 1
    for step in reversed(steps):
        begin = int(step[end])
        if begin < end:
            groups.append((int(held[begin, end]), int(longest[end])))
        end = begin
    return groups[::-1]
