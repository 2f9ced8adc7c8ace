"""Linear layers that multiply in float8, by torchao: weights, their names and what is saved stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from vlp.ground.types import RecipeError

Scales = Literal["tensorwise", "rowwise"]
MULTIPLE = 16  # of which kernels want both sides of a matrix
PLAIN = (nn.Linear, NonDynamicallyQuantizableLinear)  # and none with an adapter


def multiply_in_float8(blocks: Iterable[nn.Module], *, scales: Scales, emulate: bool = False) -> int:
    """Let the linear layers of blocks multiply in float8, forward and backward; return how many do.

    Micikevicius et al. 2022 (arXiv:2209.05433): each factor of a product is rounded to eight bits with a scale of its
    own, found in the moment. Layers that do not train stay as they are, and so does what multiplies with a matrix that
    is no layer: open_clip's queries, keys and values.

    Args:
        scales: One for each factor (`tensorwise`), or for each of its rows and columns (`rowwise`).
        emulate: Multiply the rounded factors in float32, on any device.

    Raises:
        RecipeError: torchao is missing, or no layer is left.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise RecipeError("train.float8: needs the package torchao: pip install 'vlp[float8]'") from error
    # packed captions are any number of rows, over which the gradients of weights are sums
    config = replace(Float8LinearConfig.from_recipe_name(scales), emulate=emulate, pad_inner_dim=True)
    converted = 0
    for block in blocks:
        converted += sum(map(_fits, block.modules()))
        convert_to_float8_training(block, module_filter_fn=lambda layer, _: _fits(layer), config=config)
    if not converted:
        raise RecipeError(
            f"train.float8: no linear layer trains in a block whose sizes are multiples of {MULTIPLE}: leave it out"
        )
    return converted


def _fits(layer: nn.Module) -> bool:
    if type(layer) not in PLAIN:
        return False
    weight: nn.Parameter = layer.weight  # type: ignore[assignment]
    return weight.requires_grad and all(size % MULTIPLE == 0 for size in weight.shape)
