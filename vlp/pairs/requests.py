"""What a term may ask of a similarity matrix, and what a matrix is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor

from vlp.ground.dist import ArrivingRows
from vlp.pairs.functions import Kernel, Pointwise

Axis = Literal["row", "column"]
Mask = Literal["none", "twin", "pair", "label"]
"""What a request leaves out. The two sides of an entry are twins when they stand at different places and share a sample
id: no negatives of each other, whatever the rest of the request says.

`none` nothing; `twin` the twins; `pair` the twins and the diagonal; `label` these and every entry whose two sides share
a label. Sides without ids have no twins; sides with labels have no diagonal beyond them.
"""


@dataclass(frozen=True)
class LSE:
    """Log-sum-exp of each row or column of the logits; minus infinity where everything is masked.

    Args:
        axis: Sum over the columns of a `row`, or over the rows of a `column`.
        factor: Multiplies the model's learnable scale.
        fixed_scale: Multiplies cosines instead of the model's scale; carries no gradient to it.
        individual: Each row (or column) has a scale of its own, that of its side; carries no gradient to it.
        mask: What is left out, as `Mask` says.
        kernel: Adds a log-weight to each logit.
    """

    axis: Axis
    factor: float = 1.0
    fixed_scale: float | None = None
    individual: bool = False
    mask: Mask = "none"
    kernel: Kernel | None = None


@dataclass(frozen=True)
class WMEAN:
    """Mean of the logits of each row or column, weighted by their own softmax; 0 where everything is masked.

    With the weights held fixed its derivative is that of the `LSE` of the same settings.

    Args:
        axis: As in `LSE`, like all others.
    """

    axis: Axis
    factor: float = 1.0
    fixed_scale: float | None = None
    individual: bool = False
    mask: Mask = "none"


@dataclass(frozen=True)
class KMEAN:
    """Mean of the logits of each row or column, weighted by a kernel; the weights carry no gradient.

    Args:
        axis: As in `LSE`.
        kernel: Must never weigh all of a row (or column) zero.
        mask: As in `LSE`; must never leave out all of a row (or column).
    """

    axis: Axis
    kernel: Kernel
    mask: Mask = "none"


@dataclass(frozen=True)
class WSUM:
    """Sum of the logits of each row or column, weighted by a kernel; the weights carry no gradient."""

    axis: Axis
    kernel: Kernel
    mask: Mask = "none"


@dataclass(frozen=True)
class MAP:
    """Sum of a pointwise function along each row, at the model's scale plus the model's bias.

    Args:
        function: Must vanish at minus infinity when there is a mask.
        mask: As in `LSE`.
    """

    function: Pointwise
    mask: Mask = "none"


@dataclass(frozen=True)
class TOPK:
    """Positions in the whole batch of the largest entries of each row or column, falling; -1 where there are no more.

    Carries no gradient: `Pairs.cosines_at` does.

    Args:
        axis: As in `LSE`.
        k: How many.
        mask: As in `LSE`.
    """

    axis: Axis
    k: int
    mask: Mask = "pair"


@dataclass(frozen=True)
class HIST:
    """Histogram of all cosines of the whole batch, the same on every process.

    An entry between two grid points is shared between them in proportion, so that sums of a function over entries are
    its linear interpolation, with the gradient of that.

    Args:
        num_bins: Grid points.
        low: First grid point; entries outside go to the nearest one, without gradient.
        high: Last grid point.
        mask: As in `LSE`.
    """

    num_bins: int
    low: float = -1.0
    high: float = 1.0
    mask: Mask = "pair"


Request = LSE | WMEAN | KMEAN | WSUM | MAP | TOPK | HIST


def mask_of(request: Request) -> Mask:
    """Return what a request leaves out."""
    return request.mask


def kernel_of(request: Request) -> Kernel | None:
    """Return the kernel of a request, if it has one."""
    return request.kernel if isinstance(request, LSE | KMEAN | WSUM) else None


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a similarity matrix: this process's rows with gradient, and every process's without.

    Args:
        gather: Returns every process's rows; whoever calls it first, on all processes alike, makes them meet.
        start: Begins to gather them, if they can be waited for later; alike on all processes.
        ids: Sample ids of the whole batch; None where no two rows are of one sample.
        labels: Of the whole batch, for the `label` mask.
        scales: Of the whole batch, for `individual` requests.
        cut: Whose first coordinates they are, made unit again; None where they are nobody's.
        references: Features of the whole batch for kernels, by name: the kernel sees their products.
    """

    local: Float[Tensor, "n d"]
    gather: Callable[[], Float[Tensor, "b d"]]
    labels: Int64[Tensor, " b"] | None = None
    scales: Float[Tensor, " b"] | None = None
    references: Mapping[str, Float[Tensor, "b r"]] = field(default_factory=dict)
    ids: Int64[Tensor, " b"] | None = None
    cut: Side | None = None
    start: Callable[[], ArrivingRows] | None = None

    @property
    def origin(self) -> Side:
        """The side whose first coordinates these are, or this one."""
        return self if self.cut is None else self.cut

    @property
    def everyone(self) -> Float[Tensor, "b d"]:
        """Rows of the whole batch, which need not be gathered for a side that only has rows walked."""
        return self.gather()


@dataclass(frozen=True)
class Block:
    """One similarity matrix; symmetric when both sides are the same object. Its sides may differ in length."""

    rows: Side
    columns: Side
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""]

    @property
    def symmetric(self) -> bool:
        """Whether rows and columns are the same embeddings."""
        return self.rows is self.columns


Stats = dict[tuple[str, Request], Tensor]
