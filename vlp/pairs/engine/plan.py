"""From requests to the statistics that answer them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from vlp.pairs.engine.plain_sums import Histogram, KernelSum, PointwiseSum, TopK
from vlp.pairs.engine.softmax_sums import LogSumExp, SoftmaxMean
from vlp.pairs.engine.statistic import Statistic
from vlp.pairs.requests import HIST, LSE, MAP, TOPK, WMEAN, Axis, Request


def plan_statistics(requests: Iterable[Request], bias: Tensor) -> list[Statistic]:
    """Group requests that share their work; the model's scale first, so that its gradient is one product."""
    groups: dict[Request, Statistic] = {}
    for request in requests:
        key = _without_axis(request)
        if key not in groups:
            groups[key] = _statistic(request, bias)
        groups[key].requests[axis_of(request)] = request
    return sorted(groups.values(), key=lambda statistic: (not statistic.learned, not statistic.differentiable))


def _statistic(request: Request, bias: Tensor) -> Statistic:
    if isinstance(request, LSE):
        return LogSumExp(request)
    if isinstance(request, WMEAN):
        return SoftmaxMean(request)
    if isinstance(request, MAP):
        return PointwiseSum(request, bias)
    if isinstance(request, TOPK):
        return TopK(request)
    if isinstance(request, HIST):
        return Histogram(request)
    return KernelSum(request)


def _without_axis(request: Request) -> Request:
    """Return a request without its axis where both axes share their work."""
    if isinstance(request, MAP | HIST):
        return request
    if isinstance(request, LSE | WMEAN) and request.individual:
        return request
    return replace(request, axis="row")


def axis_of(request: Request) -> Axis:
    """Return the axis along which a request's answer lies; what belongs to no axis counts as rows."""
    return "row" if isinstance(request, MAP | HIST) else request.axis


def is_differentiable(request: Request) -> bool:
    """Whether the answer to a request carries a gradient."""
    return not isinstance(request, TOPK)
