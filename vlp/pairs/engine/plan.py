"""From requests to the statistics that answer them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from vlp.pairs.engine.plain_sums import Histogram, KernelSum, PointwiseSum, TopK
from vlp.pairs.engine.softmax_sums import LogSumExp, SoftmaxMean
from vlp.pairs.engine.statistic import Statistic, axis_of, plan_key
from vlp.pairs.requests import HIST, LSE, MAP, TOPK, WMEAN, Request


def plan_statistics(requests: Iterable[Request], bias: Tensor) -> list[Statistic]:
    """Group requests that share their work; the model's scale first, so that its gradient is one product."""
    groups: dict[Request, Statistic] = {}
    for request in requests:
        key = plan_key(request)
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
