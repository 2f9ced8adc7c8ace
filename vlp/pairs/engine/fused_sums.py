"""Gradients of a walk on CUDA, added up panel by panel from the derivatives that kernels leave.

Of k widths of d coordinates at most, S in all, log-sum-exps of rows and columns cost, forward and back, per entry of
a matrix:

                                        a walk for each   one walk
    products, in coordinates            4 S               4 d
    exponentials                        4 k               4 k
    bytes of features, for all tiles    0.19 S            0.19 d
    bytes of derivatives                32 k              32 k + 8 (k - 1)

A product of float32 counts three times on matrix units (`split_products`). Tiles are of 128 x 64 entries, and read
twice. A derivative is written in two parts of four bytes, of which the products of rows and of columns read the leading
one twice and the other once; in one walk those of narrower widths wait in the cache to be added up. Panels of one width
nearly stay in the second-level cache; of several, 64 MB of each, eight bytes written and eight read may be memory's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.pairs.engine.gradients import Gradients, WantedGradients
from vlp.pairs.engine.nested import Level, behind
from vlp.pairs.engine.split_products import Parts, add_product_, parts_of, transposed
from vlp.pairs.engine.statistic import AXES, Vectors
from vlp.pairs.engine.tiles import Rectangle
from vlp.pairs.requests import Axis


class PanelDerivatives(NamedTuple):
    """What a kernel makes of a panel, going back.

    Args:
        of_products: For the coordinates that each width adds, what moves them: of all widths that hold them.
        of_norms: For the logarithms of the inverse norms of rows and of columns, a row for each width that was cut.
        of_numbers: For the logarithm of the scale, then for the bias.
    """

    of_products: Sequence[Parts]
    of_norms: Vectors
    of_numbers: Float[Tensor, " k"]


class FusedSums:
    """Sums over panels: two products for the coordinates of each width that the one before has not.

    Args:
        levels: The widths, narrow ones first.
        whole: What is walked.
    """

    def __init__(self, levels: Sequence[Level], whole: Rectangle, wanted: WantedGradients):
        self._levels, self._whole = levels, whole
        self._matrix = levels[-1].matrix
        edges = [slice(*edge) for edge in pairwise((0, *(level.width for level in levels)))]
        self._edges = edges
        sides = {"row": whole.rows, "column": whole.columns}
        asked = {"row": wanted.rows, "column": wanted.columns}
        self._pieces: dict[Axis, list[Tensor]] = {
            axis: [torch.zeros_like(sides[axis][:, edge]) for edge in edges] for axis in AXES if asked[axis]
        }
        num_cut = sum(level.rows is not None for level in levels)
        self._norms = {axis: sides[axis].new_zeros(num_cut, len(sides[axis])) for axis in self._pieces}
        self._numbers = whole.rows.new_zeros(2)

    def add(self, places: dict[Axis, slice], found: PanelDerivatives) -> None:
        """Add a panel that lies at some rows and columns."""
        self._numbers += found.of_numbers
        for axis, sums in self._norms.items():
            sums[:, places[axis]] += found.of_norms[axis]
        whole, numerics = self._whole, self._matrix.numerics
        if "row" in self._pieces:
            columns = parts_of(whole.columns[places["column"]], numerics)
            for piece, edge, slopes in zip(self._pieces["row"], self._edges, found.of_products, strict=True):
                add_product_(piece[places["row"]], slopes, tuple(part[:, edge] for part in columns))
        if "column" in self._pieces:
            rows = parts_of(whole.rows[places["row"]], numerics)
            for piece, edge, slopes in zip(self._pieces["column"], self._edges, found.of_products, strict=True):
                add_product_(piece[places["column"]], transposed(slopes), tuple(part[:, edge] for part in rows))

    def finish(self) -> Gradients:
        """Return the gradients; those of rows and columns hold a number for each inverse norm behind coordinates."""
        numbers = self._numbers / 2 if self._whole.is_symmetric else self._numbers
        log_scale, bias = numbers.unbind()  # a symmetric derivative is that of an entry and of its mirror image
        cut = [level for level in self._levels if level.rows is not None]
        inverse = {"row": [level.rows for level in cut], "column": [level.columns for level in cut]}
        rows, columns = (behind(self._pieces.get(axis, ()), self._norms.get(axis), inverse[axis]) for axis in AXES)
        return Gradients(rows, columns, log_scale / self._matrix.scale, bias)
