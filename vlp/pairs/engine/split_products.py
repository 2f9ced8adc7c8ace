"""Products of float32 matrices on matrix units that read 11 of their 24 bits (TF32), with the digits of float32.

A factor is the sum of its leading bits and of the rest. Three products of such parts are all but 2^-21 of the whole
(Markidis et al. 2018, arXiv:1803.04014; Ootomo & Yokota 2022, arXiv:2203.03341), and take less time than one in which
no bit is dropped: the matrix units of an H100 do 494e12 operations a second in TF32, its other units 67e12.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.ground.float32 import tf32

Numerics = Literal["exact", "fast"]
Parts = tuple[Float[Tensor, "m n"], ...]
"""A matrix, or its leading bits and the rest."""
Add = Callable[[Tensor, Tensor, Tensor], Any]
DROPPED = 13  # bits that TF32 does not read


def parts_of(matrix: Float[Tensor, "m n"], numerics: Numerics) -> Parts:
    """Return what a matrix is multiplied as: in two parts on CUDA, unless it is to be fast; elsewhere as it is."""
    if not is_split(matrix, numerics):
        return (matrix,)
    upper = leading(matrix)
    return upper, matrix - upper


def is_split(matrix: Tensor, numerics: Numerics) -> bool:
    """Whether matrices like this one are multiplied in two parts."""
    return matrix.is_cuda and numerics == "exact"


def add_product_(target: Float[Tensor, "m n"], left: Parts, right: Parts, add: Add = Tensor.addmm_) -> None:
    """Add a product to a matrix, of parts the smallest first.

    Args:
        add: Adds the product of two matrices to a third, and on CUDA may read only the leading bits of both.
    """
    with tf32() if target.is_cuda else nullcontext():
        if len(left) > 1:
            add(target, left[1], right[0])
            add(target, left[0], right[1])
        add(target, left[0], right[0])


def transposed(parts: Parts) -> Parts:
    """Return the parts of the transposed matrix."""
    return tuple(part.t() for part in parts)


def leading(values: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Return float32 numbers cut to the bits that TF32 reads."""
    return (values.view(torch.int32) & -(1 << DROPPED)).view(torch.float32)
