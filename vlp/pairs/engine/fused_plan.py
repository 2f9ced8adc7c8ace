"""Which requests have kernels, and what a kernel is compiled for: the places of all numbers of a walk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from vlp.pairs.engine.statistic import AXES, Statistic
from vlp.pairs.functions import SOFTPLUS
from vlp.pairs.requests import KMEAN, LSE, MAP, WMEAN, WSUM, Axis, Block, Mask, Request, Side, kernel_of, mask_of

KINDS = ("log_sum_exp", "softplus", "softmax_mean", "kernel_sum")  # kernels know them by their places, as all below
FUNCTIONS = (None, "tilt", "nearness", "below", "fade", "affinity", "given")
OWN_SCALES: tuple[Axis | None, ...] = (None, *AXES)
MASKS: tuple[Mask, ...] = get_args(Mask)
NUM_SUMS = {"log_sum_exp": 1, "softplus": 1, "softmax_mean": 2, "kernel_sum": 2}  # that a tile adds along an axis
NUM_VECTORS = {"log_sum_exp": 2, "softplus": 1, "softmax_mean": 3, "kernel_sum": 1}  # that going back reads


class FusedStatistic(Statistic, Protocol):
    """A statistic whose tiles may be walked elsewhere, by a kernel."""

    def add_parts(self, axis: Axis, where: slice, parts: Tensor, /) -> None:
        """Add what tiles found, of shape (numbers, tiles, size): as many numbers for each as `NUM_SUMS` says."""

    def vectors_back(self, saved: Tensor, gradient: Tensor, /) -> Tensor:
        """Return what a kernel reads going back, of shape (numbers, size): as many as `NUM_VECTORS` says."""


class PlanEntry(NamedTuple):
    """What a kernel is compiled for, per statistic.

    Args:
        kind: Place of its kind among all.
        mask: Place of its mask among all.
        row: Place of its first vector among those of rows, -1 if it has none; `column` likewise.
        learned: Whether the model's scale takes part.
        own_scale: Place of the axis whose entries have scales of their own; 0 if none.
        function: Place of the function that makes log-weights; 0 if there are none.
        first: Place of the first feature of its references, among all that are read; `last` is behind its last.
        is_new: Whether the products of its references are not at hand from an entry before it.
    """

    kind: int
    mask: int
    row: int
    column: int
    learned: bool
    own_scale: int
    function: int
    first: int
    last: int
    is_new: bool


Plan = tuple[PlanEntry, ...]


class PlanLevel(NamedTuple):
    """What a kernel is compiled for, per width of the embeddings; narrow ones first.

    Args:
        start: Its first feature that the level before it has not; `stop` is behind its last.
        norms: Place of its inverse norms among all, -1 if its embeddings are taken as they are.
        first: Place of its first entry in the plan; `last` is behind its last.
    """

    start: int
    stop: int
    norms: int
    first: int
    last: int


Levels = tuple[PlanLevel, ...]


def has_kernel(request: Request) -> bool:
    """Whether a kernel answers a request."""
    if isinstance(request, MAP):
        return request.function is SOFTPLUS
    kernel = kernel_of(request)
    return isinstance(request, LSE | WMEAN | KMEAN | WSUM) and (kernel is None or kernel.name in FUNCTIONS)


def has_types(block: Block) -> bool:
    """Whether kernels multiply the features of a block."""
    types = (torch.float32, torch.bfloat16, torch.float16)
    return all(side.local.dtype in types for side in (block.rows, block.columns))


def references_of(statistics: Iterable[Statistic]) -> tuple[str, ...]:
    """Return the names of the reference features that kernels read, each once."""
    kernels = (kernel_of(request_of(statistic)) for statistic in statistics)
    return tuple(dict.fromkeys(kernel.of for kernel in kernels if kernel is not None))


def request_of(statistic: Statistic) -> Request:
    """Return one of the requests that a statistic answers, which differ in their axes."""
    return next(iter(statistic.requests.values()))


def plan_walk(
    statistics: Sequence[Statistic], axes: Iterable[Iterable[Axis]], side: Side, numbers: dict[str, int]
) -> Plan:
    """Give each statistic its places among the vectors of each of its axes.

    Args:
        axes: Along which each statistic has vectors.
        side: Has the references, whose widths it takes.
        numbers: Vectors of a statistic along an axis, by its kind.
    """
    features = _places_of_features(references_of(statistics), side)
    taken = dict.fromkeys(AXES, 0)
    at_hand = None
    entries = []
    for statistic, own in zip(statistics, axes, strict=True):
        request = request_of(statistic)
        kernel, kind = kernel_of(request), _kind_of(request)
        places = {axis: taken[axis] if axis in own else -1 for axis in AXES}
        taken |= {axis: taken[axis] + numbers[kind] for axis in own}
        first, last = features[kernel.of] if kernel is not None else (0, 0)
        entry = PlanEntry(
            kind=KINDS.index(kind),
            mask=MASKS.index(mask_of(request)),
            row=places["row"],
            column=places["column"],
            learned=statistic.learned,
            own_scale=OWN_SCALES.index(own_scale_of(request)),
            function=FUNCTIONS.index(None if kernel is None else kernel.name),
            first=first,
            last=last,
            is_new=kernel is not None and kernel.of != at_hand,
        )
        at_hand = at_hand if kernel is None else kernel.of
        entries.append(entry)
    return tuple(entries)


def plan_levels(widths: Sequence[int], are_cut: Sequence[bool], counts: Sequence[int]) -> Levels:
    """Give each width its places among the features, the inverse norms and the entries of a plan.

    Args:
        widths: Rising.
        are_cut: Whether the embeddings of each were made unit again.
        counts: Entries of each.
    """
    starts, firsts = (0, *widths), list(accumulate(counts, initial=0))
    norms = [sum(are_cut[:k]) if is_cut else -1 for k, is_cut in enumerate(are_cut)]
    return tuple(map(PlanLevel, starts, widths, norms, firsts[:-1], firsts[1:]))


def _places_of_features(names: Sequence[str], side: Side) -> dict[str, tuple[int, int]]:
    """Return where the features of each reference begin and end, side by side."""
    ends = list(accumulate((side.references[name].shape[1] for name in names), initial=0))
    return dict(zip(names, pairwise(ends), strict=True))


def num_vectors(plan: Plan, axis: Axis, numbers: dict[str, int]) -> int:
    """Return how many vectors of an axis a walk has."""
    return sum(numbers[KINDS[entry.kind]] for entry in plan if getattr(entry, axis) >= 0)


def own_scale_of(request: Request) -> Axis | None:
    """Return the axis whose entries have scales of their own."""
    return request.axis if isinstance(request, LSE | WMEAN) and request.individual else None


def _kind_of(request: Request) -> str:
    if isinstance(request, MAP):
        return "softplus"
    if isinstance(request, LSE):
        return "log_sum_exp"
    return "softmax_mean" if isinstance(request, WMEAN) else "kernel_sum"
