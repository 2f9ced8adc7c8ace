"""What the engine must equal: the same requests on whole matrices, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vlp.pairs import LSE, MAP, SOFTPLUS, WMEAN, Block, Request, Side


def unit(size: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw unit-norm rows."""
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(size, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def leaves(size: int, dim: int = 6, scale: float = 9.0, bias: float = -4.0, dtype: torch.dtype = torch.float64):
    """Draw everything that gets a gradient: images, texts, scale and bias."""
    numbers = [torch.tensor(number, dtype=dtype) for number in (scale, bias)]
    return [leaf.requires_grad_() for leaf in (unit(size, dim, 1, dtype), unit(size, dim, 2, dtype), *numbers)]


def blocks_of(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> dict[str, Block]:
    """Return the three similarity matrices of one process, with labels in which some repeat, and references."""
    size = len(image)
    images, texts = Side(image, image.detach()), Side(text, text.detach())
    labels = torch.arange(size) % max(1, size - 2)
    reference = unit(size, 5, 3)
    return {
        "image_text": Block(images, texts, scale, bias, labels, reference),
        "image_image": Block(images, images, scale, bias, labels, reference),
        "text_text": Block(texts, texts, scale, bias, labels, reference),
    }


def dense_stat(block: Block, request: Request) -> Tensor:
    """Answer a request with matrices of the size of the batch squared."""
    cosines = block.rows.local @ block.columns.local.T
    if isinstance(request, WMEAN):
        kernel = ((block.reference @ block.reference.T - 1) / request.kernel_temperature).exp()
        dim = 1 if request.axis == "row" else 0
        return (kernel * block.scale * cosines).sum(dim) / kernel.sum(dim)
    hidden = {
        "none": torch.zeros_like(cosines, dtype=torch.bool),
        "pair": torch.eye(len(cosines), dtype=torch.bool),
        "label": block.labels[:, None] == block.labels[None, :],
    }[request.mask]
    if isinstance(request, MAP):
        assert request.function is SOFTPLUS
        values = functional.softplus(block.scale * cosines + block.bias, threshold=40)
        return values.masked_fill(hidden, 0).sum(1)
    scale = block.scale * request.factor if request.fixed_scale is None else request.fixed_scale
    logits = scale * cosines
    if request.reference:
        logits = logits + request.reference * block.reference @ block.reference.T
    dim = 1 if request.axis == "row" else 0
    empty = hidden.all(dim)
    safe = logits.masked_fill(hidden & ~empty.unsqueeze(dim), -torch.inf)
    return safe.logsumexp(dim).masked_fill(empty, -torch.inf)


ROWS, COLUMNS = LSE("row"), LSE("column")
REQUESTS: dict[str, dict[str, list[Request]]] = {
    "rows": {"image_text": [ROWS]},
    "columns": {"image_text": [COLUMNS]},
    "both": {"image_text": [ROWS, COLUMNS]},
    "negatives": {"image_text": [LSE("row", mask="pair"), LSE("column", mask="pair")]},
    "duplicates": {"image_text": [LSE("row", mask="label"), LSE("column", mask="label")]},
    "factor": {"image_text": [LSE("row", factor=0.5), LSE("row", factor=1.5, mask="pair")]},
    "fixed": {"image_text": [LSE("row", fixed_scale=4.0), LSE("column", fixed_scale=4.0, mask="pair")]},
    "reference": {"image_text": [LSE("row", reference=3.0), LSE("column", reference=-2.0)]},
    "sigmoid": {"image_text": [MAP(SOFTPLUS), MAP(SOFTPLUS, mask="pair")]},
    "kernel": {"image_text": [WMEAN("row", 0.1), WMEAN("column", 0.3), WMEAN("column", 0.1)]},
    "within": {"image_image": [ROWS, LSE("row", mask="pair")], "text_text": [LSE("row", mask="label")]},
    "within_fixed": {"image_image": [LSE("row", fixed_scale=4.0, mask="pair")]},
    "within_mixed": {"image_image": [LSE("row", fixed_scale=4.0, mask="pair"), ROWS, MAP(SOFTPLUS), WMEAN("row", 0.2)]},
    "all": {
        "image_text": [
            ROWS,
            LSE("column", mask="pair"),
            LSE("row", fixed_scale=4.0, mask="pair"),
            LSE("row", factor=2.0, mask="label"),
            MAP(SOFTPLUS, mask="pair"),
            WMEAN("row", 0.1),
        ],
        "image_image": [LSE("row", mask="pair")],
        "text_text": [LSE("row", fixed_scale=4.0, mask="pair")],
    },
}


def mix(stats: dict) -> Tensor:
    """Return a number that weighs every entry of every answer differently; empty sums count nothing."""
    total = torch.zeros((), dtype=torch.float64)
    for k, values in enumerate(stats.values()):
        finite = values.where(values != -torch.inf, 0).double()
        weights = torch.linspace(0.5, 1.5, len(values), dtype=torch.float64)
        total = total + ((k + 1) * weights * (finite + 0.1 * finite.tanh())).sum()
    return total
