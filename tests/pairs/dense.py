"""What the engine must equal: the same requests on whole matrices, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from vlp.ground.coordinates import first_coordinates
from vlp.pairs import (
    HIST,
    KMEAN,
    LSE,
    MAP,
    SOFTPLUS,
    TOPK,
    WMEAN,
    WSUM,
    Block,
    Kernel,
    Request,
    Side,
    affinity,
    below,
    fade,
    given,
    kernel_of,
    mask_of,
    nearness,
    tilt,
)


def unit(size: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw unit-norm rows."""
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(size, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def leaves(size: int, dim: int = 6, scale: float = 9.0, bias: float = -4.0, dtype: torch.dtype = torch.float64):
    """Draw everything that gets a gradient: images, texts, scale and bias."""
    numbers = [torch.tensor(number, dtype=dtype) for number in (scale, bias)]
    return [leaf.requires_grad_() for leaf in (unit(size, dim, 1, dtype), unit(size, dim, 2, dtype), *numbers)]


def blocks_of(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, ids: Tensor | None = None) -> dict[str, Block]:
    """Return the similarity matrices of one process, with labels in which some repeat, scales, and references.

    Args:
        ids: Of the samples; None says that all differ.
    """
    sides = sides_of(image, text, ids)
    pairs = {"image_text": (0, 1), "image_image": (0, 0), "text_text": (1, 1), "image_extra": (0, 2)}
    return {name: Block(sides[rows], sides[columns], scale, bias) for name, (rows, columns) in pairs.items()}


def sides_of(image: Tensor, text: Tensor, ids: Tensor | None = None) -> tuple[Side, Side, Side]:
    """Return images, texts, and three captions per image made of both: more columns than rows."""
    size = len(image)
    labels = torch.arange(size) % max(1, size - 2)
    references = {"reference": unit(size, 5, 3)}
    scales = torch.linspace(3, 8, size, dtype=torch.float64)
    extra = torch.cat([text, text.flip(1), image.roll(1, dims=1)], dim=1).reshape(3 * size, -1)
    return (
        Side(image, image.detach, labels, scales, references, ids),
        Side(text, text.detach, labels, scales.flip(0), references, ids),
        Side(
            extra,
            extra.detach,
            labels.repeat_interleave(3),
            None,
            {"reference": unit(3 * size, 5, 4)},
            None if ids is None else ids.repeat_interleave(3),
        ),
    )


def cut_blocks(blocks: Mapping[str, Block], widths: Iterable[int]) -> dict[str, Block]:
    """Return blocks of first coordinates, `NAME@WIDTH`; those of all are no others."""
    narrow: dict[tuple[Side, int], Side] = {}

    def cut(side: Side, width: int) -> Side:
        if width == side.local.shape[1]:
            return side
        if (side, width) not in narrow:
            everyone = cache(lambda: first_coordinates(side.everyone, width))
            local = first_coordinates(side.local, width)
            narrow[side, width] = replace(side, local=local, gather=everyone, cut=side)
        return narrow[side, width]

    return {
        f"{name}@{width}": Block(cut(block.rows, width), cut(block.columns, width), block.scale, block.bias)
        for name, block in blocks.items()
        for width in widths
    }


def dense_stat(block: Block, request: Request) -> Tensor:
    """Answer a request with matrices of the size of the batch squared."""
    cosines = block.rows.local @ block.columns.local.T
    hidden = hidden_by(block, mask_of(request))
    if isinstance(request, MAP):
        assert request.function is SOFTPLUS
        values = functional.softplus(block.scale * cosines + block.bias, threshold=40)
        return values.masked_fill(hidden, 0).sum(1)
    if isinstance(request, HIST):
        grid = torch.linspace(request.low, request.high, request.num_bins, dtype=cosines.dtype)
        nearness = 1 - (cosines[..., None].clamp(request.low, request.high) - grid).abs() / (grid[1] - grid[0])
        return nearness.clamp(min=0)[~hidden].sum(0)
    dim = 1 if request.axis == "row" else 0
    if isinstance(request, TOPK):
        values, positions = cosines.masked_fill(hidden, -torch.inf).topk(min(request.k, cosines.shape[dim]), dim)
        found = positions.masked_fill(values == -torch.inf, -1)
        found = found if dim == 1 else found.T
        return functional.pad(found, (0, request.k - found.shape[1]), value=-1)
    weights = dense_kernel(block, kernel_of(request))
    if isinstance(request, KMEAN | WSUM):
        weights = weights.masked_fill(hidden, -torch.inf)
        total = (weights.exp() * block.scale * cosines).sum(dim)
        return total / weights.exp().sum(dim) if isinstance(request, KMEAN) else total
    hidden = hidden | (weights == -torch.inf)
    logits = dense_scale(block, request) * cosines + weights.where(~hidden, 0)
    empty = hidden.all(dim)
    safe = logits.masked_fill(hidden & ~empty.unsqueeze(dim), -torch.inf)
    if isinstance(request, WMEAN):
        return (safe.softmax(dim) * logits).sum(dim).masked_fill(empty, 0)
    return safe.logsumexp(dim).masked_fill(empty, -torch.inf)


def hidden_by(block: Block, mask: str) -> Tensor:
    """Return what a mask leaves out of a whole matrix, entry by entry."""
    rows, columns = len(block.rows.local), len(block.columns.local)
    hidden = torch.zeros(rows, columns, dtype=torch.bool)
    for i in range(rows) if mask != "none" else ():
        for j in range(columns):
            is_one_sample = block.rows.ids is not None and block.rows.ids[i] == block.columns.ids[j]
            has_one_label = mask == "label" and block.rows.labels[i] == block.columns.labels[j]
            hidden[i, j] = (is_one_sample or has_one_label) and not (mask == "twin" and i == j)
            hidden[i, j] |= mask == "pair" and i == j
    return hidden


def dense_kernel(block: Block, kernel: Kernel | None) -> Tensor:
    """Return the log-weights of a kernel, with textbook formulas."""
    if kernel is None:
        return torch.zeros((), dtype=torch.float64)
    cosines = block.rows.references[kernel.of] @ block.columns.references[kernel.of].T
    formulas = {
        "tilt": lambda: kernel.parameter * cosines,
        "nearness": lambda: (cosines - 1) / kernel.parameter,
        "below": lambda: torch.log((cosines < kernel.parameter).double()),
        "fade": lambda: torch.log(1 - cosines.clamp(min=0) ** kernel.parameter),
        "given": lambda: cosines,
        "affinity": lambda: torch.log(((1 + cosines) / 2).clamp(min=0)),
    }
    return formulas[kernel.name]()


def dense_scale(block: Block, request: LSE | WMEAN) -> Tensor | float:
    """Return what multiplies cosines."""
    if request.individual:
        return block.rows.scales[:, None] if request.axis == "row" else block.columns.scales[None, :]
    return block.scale * request.factor if request.fixed_scale is None else request.fixed_scale


ROWS, COLUMNS = LSE("row"), LSE("column")
REQUESTS: dict[str, dict[str, list[Request]]] = {
    "rows": {"image_text": [ROWS]},
    "columns": {"image_text": [COLUMNS]},
    "both": {"image_text": [ROWS, COLUMNS]},
    "negatives": {"image_text": [LSE("row", mask="pair"), LSE("column", mask="pair")]},
    "duplicates": {"image_text": [LSE("row", mask="label"), LSE("column", mask="label")]},
    "factor": {"image_text": [LSE("row", factor=0.5), LSE("row", factor=1.5, mask="pair")]},
    "fixed": {"image_text": [LSE("row", fixed_scale=4.0), LSE("column", fixed_scale=4.0, mask="pair")]},
    "tilted": {"image_text": [LSE("row", kernel=tilt(3.0)), LSE("column", kernel=tilt(-2.0))]},
    "lenient": {"image_text": [LSE("row", kernel=below(0.2), mask="pair"), LSE("column", kernel=below(0.2))]},
    "faded": {"image_text": [LSE("row", kernel=fade(2.0), mask="pair"), LSE("column", kernel=fade(0.5), mask="pair")]},
    "low_rank": {"image_text": [LSE("row", kernel=given("reference")), LSE("column", kernel=given("reference"))]},
    "individual": {
        "image_text": [LSE(axis, individual=True, mask=mask) for axis in ("row", "column") for mask in ("pair", "none")]
    },
    "means": {"image_text": [WMEAN("row"), WMEAN("column"), WMEAN("row", fixed_scale=3.0, mask="pair")]},
    "means_masked": {"image_text": [WMEAN("row", factor=0.5, mask="label"), WMEAN("column", mask="label")]},
    "means_individual": {"image_text": [WMEAN(axis, individual=True, mask="pair") for axis in ("row", "column")]},
    "means_within": {"image_image": [WMEAN("row", mask="pair")], "text_text": [WMEAN("row", fixed_scale=2.0)]},
    "weighted_sums": {"image_text": [WSUM("row", nearness(0.3)), WSUM("column", given("reference"))]},
    "largest": {"image_text": [TOPK("row", 3), TOPK("column", 2, mask="label"), LSE("row", fixed_scale=4.0)]},
    "largest_within": {"image_image": [TOPK("row", 2), LSE("row")]},
    "counts": {"image_text": [HIST(17), ROWS], "image_image": [HIST(9, -0.4, 0.6, mask="none")]},
    "rectangular": {
        "image_extra": [ROWS, COLUMNS, LSE("row", mask="label"), WMEAN("column"), KMEAN("column", nearness(0.2))]
    },
    "rectangular_more": {"image_extra": [MAP(SOFTPLUS), HIST(5, mask="none"), TOPK("column", 2, mask="none")]},
    "twins": {
        "image_text": [LSE(axis, mask="twin") for axis in ("row", "column")]
        + [LSE("row", fixed_scale=4.0, mask="pair")],
        "image_image": [LSE("row", mask="twin")],
    },
    "twins_weighted": {
        "image_text": [
            KMEAN("row", affinity(), "twin"),
            KMEAN("column", nearness(0.3), "twin"),
            WSUM("row", nearness(0.3), "twin"),
            WMEAN("column", factor=0.5, mask="twin"),
            LSE("row", kernel=given("reference"), mask="twin"),
            TOPK("row", 4, "twin"),
            HIST(9, mask="twin"),
        ]
    },
    "sigmoid": {"image_text": [MAP(SOFTPLUS), MAP(SOFTPLUS, mask="pair")]},
    "kernel": {
        "image_text": [KMEAN("row", nearness(0.1)), KMEAN("column", nearness(0.3)), KMEAN("column", nearness(0.1))]
    },
    "within": {"image_image": [ROWS, LSE("row", mask="pair")], "text_text": [LSE("row", mask="label")]},
    "within_fixed": {"image_image": [LSE("row", fixed_scale=4.0, mask="pair")]},
    "within_mixed": {
        "image_image": [LSE("row", fixed_scale=4.0, mask="pair"), ROWS, MAP(SOFTPLUS), KMEAN("row", nearness(0.2))]
    },
    "all": {
        "image_text": [
            ROWS,
            LSE("column", mask="pair"),
            LSE("row", fixed_scale=4.0, mask="pair"),
            LSE("row", factor=2.0, mask="label"),
            MAP(SOFTPLUS, mask="pair"),
            KMEAN("row", nearness(0.1)),
            WMEAN("column", factor=0.3),
            HIST(12),
            TOPK("row", 2),
        ],
        "image_image": [LSE("row", mask="pair")],
        "text_text": [LSE("row", fixed_scale=4.0, mask="pair")],
    },
}


def mix(stats: dict) -> Tensor:
    """Return a number that weighs every entry of every answer differently; empty sums count nothing."""
    total = torch.zeros((), dtype=torch.float64)
    for k, ((_, request), values) in enumerate(stats.items()):
        if isinstance(request, TOPK):
            continue
        finite = values.where(values != -torch.inf, 0).double()
        weights = torch.linspace(0.5, 1.5, len(values), dtype=torch.float64)
        total = total + ((k + 1) * weights * (finite + 0.1 * finite.tanh())).sum()
    return total
