"""Between statistics and those who ask: which numbers are this process's, and which of the others' going back needs.

Vectors of columns are of the whole batch, and so are those of rows in a triangular walk; a process answers for its own
part of either. A symmetric matrix is asked about its rows, but each of its rows is a column too: what comes back to a
row comes back to that column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlp.ground import dist
from vlp.pairs.engine.gradients import Gradients
from vlp.pairs.engine.matrix import Matrix
from vlp.pairs.engine.plan import axis_of, is_differentiable
from vlp.pairs.engine.statistic import Returned, Statistic, Vectors
from vlp.pairs.requests import Axis, Request

Saved = Mapping[Request, Tensor]


def answers_of(matrix: Matrix) -> tuple[Tensor, ...]:
    """Return the answers in the order of the requests: copies, for they will own the statistics that gave them."""
    answers: dict[Request, Tensor] = {}
    for statistic in matrix.statistics:
        for axis, result in statistic.results().items():
            own = _own_part(matrix, axis, result) if statistic.per_sample else result
            answers[statistic.requests[axis]] = own.clone()
    return tuple(answers[request] for request in matrix.requests)


def saved_of(matrix: Matrix) -> Saved:
    """Return what the statistics save for the way back, of rows this process's; columns are whole."""
    return {
        statistic.requests[axis]: _own_part(matrix, axis, saved) if axis == "row" else saved
        for statistic in matrix.statistics
        for axis, saved in statistic.saved_for_backward().items()
    }


def _own_part(matrix: Matrix, axis: Axis, values: Tensor) -> Tensor:
    """Return this process's part of a vector; of a triangular walk its rows stand where its columns do."""
    return values[matrix.own_columns] if axis == "column" or matrix.part.triangular else values


def return_gradients(matrix: Matrix, saved: Saved, gradients: Sequence[Tensor]) -> list[Returned]:
    """Return what comes back to each statistic that carries gradients: its own rows, everyone's columns; a collective.

    Args:
        gradients: Of the answers, in the order of the requests.
    """
    dtype = matrix.part.rows.dtype
    answered = zip(matrix.requests, gradients, strict=True)
    own = {request: gradient.to(dtype) for request, gradient in answered if is_differentiable(request)}
    if matrix.part.is_symmetric:
        both = {
            request: torch.cat([own[request][:, None], saved[request]], dim=1) for request in own if request in saved
        }
        whole = _gather(both, matrix.group)
        return [_to_both_axes(matrix, statistic, saved, own, whole) for statistic, _ in matrix.differentiable]
    whole = _gather({request: own[request][:, None] for request in own if axis_of(request) == "column"}, matrix.group)
    columns = {request: rows[:, 0].contiguous() for request, rows in whole.items()}
    return [_by_axis(statistic, saved, own | columns) for statistic, _ in matrix.differentiable]


def _by_axis(statistic: Statistic, saved: Saved, gradients: Mapping[Request, Tensor]) -> Returned:
    requests = statistic.requests
    kept: Vectors = {axis: saved[request] for axis, request in requests.items() if request in saved}
    return Returned(kept, {axis: gradients[request] for axis, request in requests.items()})


def _to_both_axes(
    matrix: Matrix, statistic: Statistic, saved: Saved, own: Mapping[Request, Tensor], whole: Mapping[Request, Tensor]
) -> Returned:
    """Return a symmetric matrix's numbers of rows as those of columns too."""
    returned = _by_axis(statistic, saved, own)
    request = statistic.requests["row"]
    if request not in whole:  # a histogram saves nothing, and belongs to no axis
        return returned
    gradient, kept = whole[request][:, 0], whole[request][:, 1:]
    if matrix.part.triangular:
        return Returned({"row": kept, "column": kept}, {"row": gradient, "column": gradient})
    return Returned(returned.saved | {"column": kept}, returned.gradients | {"column": gradient})


def _gather(parts: Mapping[Request, Tensor], group: dist.Group) -> dict[Request, Tensor]:
    """Return the numbers of everyone's rows for those of this process's, in one collective."""
    if not parts:
        return {}
    everyone = dist.all_gather_rows(torch.cat(list(parts.values()), dim=1), group)
    return dict(zip(parts, everyone.split([part.shape[1] for part in parts.values()], dim=1), strict=True))


def own_gradients(matrix: Matrix, gradients: Gradients) -> Gradients:
    """Return the gradients of this process's inputs, of what every process added to those of all; a collective."""
    rows, columns = gradients.rows, gradients.columns
    if rows is not None and matrix.part.triangular:
        rows = dist.reduce_scatter_rows(rows, matrix.group)
    if columns is not None:
        columns = dist.reduce_scatter_rows(columns, matrix.group)
    return gradients._replace(rows=rows, columns=columns)
