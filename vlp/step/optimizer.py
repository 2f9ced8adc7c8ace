"""AdamW with parameter groups by pattern."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from pydantic import Field
from torch import nn

from vlp.ground.patterns import check_matches, matches
from vlp.ground.strict import Strict
from vlp.ground.types import RecipeError

BASE_RATE = "base_learning_rate"


class GroupSettings(Strict):
    """Settings of the parameters whose names match.

    Args:
        match: Names as for `model.freeze`: parameters or groups above them, such as `visual`, `text.token_embedding`,
            `visual.*.attn.*` or `logit_scale`.
        learning_rate_factor: Multiplies the learning rate.
        weight_decay: Replaces the weight decay.
    """

    match: tuple[str, ...]
    learning_rate_factor: float = Field(default=1.0, ge=0)
    weight_decay: float | None = Field(default=None, ge=0)


def build_optimizer(
    model: nn.Module,
    behind: Mapping[str, int] = MappingProxyType({}),
    *,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.98),
    epsilon: float = 1e-6,
    weight_decay: float = 0.2,
    no_decay: tuple[str, ...] = (),
    layer_decay: float = 1.0,
    groups: dict[str, GroupSettings] = {},  # noqa: B006 (read only; the signature is the schema)
) -> torch.optim.AdamW:
    """Build fused AdamW; gains, biases and other vectors never decay.

    Args:
        model: Frozen parameters are left out.
        behind: How many blocks come behind a parameter in its tower, by name; those that are not named have none.
        learning_rate: Peak of the schedule.
        betas: Decay of the two moments; CLIP lowers the second to 0.98.
        epsilon: Added to the root of the second moment.
        weight_decay: Decoupled decay of matrices.
        no_decay: Names of further parameters that do not decay, such as `text.token_embedding`.
        layer_decay: Multiplies the learning rate once for each block that comes behind a parameter in its tower, so
            that what a pretrained tower learned first changes least (Clark et al. 2020, arXiv:2003.10555; 0.65 to 0.9
            are usual); 1 gives all layers one rate.
        groups: Parameters that need other settings, by label; the first match counts.

    Raises:
        RecipeError: A pattern matches no parameter, none is left to train, or a number is out of its range.
    """
    for key, number, holds in (
        ("learning_rate", learning_rate, learning_rate >= 0),
        ("betas", betas, all(0 <= beta < 1 for beta in betas)),
        ("epsilon", epsilon, epsilon >= 0),
        ("weight_decay", weight_decay, weight_decay >= 0),
        ("layer_decay", layer_decay, 0 < layer_decay <= 1),
    ):
        if not holds:
            raise RecipeError(
                f"optimizer.{key}: {number} is out of range: numbers are at least 0, betas below 1, "
                "layer_decay above 0 and at most 1"
            )
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not named:
        raise RecipeError("model.freeze: nothing is left to train: lock fewer parameters, or learn the scale")
    for label, wanted in groups.items():
        check_matches(wanted.match, named, f"optimizer.groups.{label}.match")
    check_matches(no_decay, named, "optimizer.no_decay")
    collected: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, value in named.items():
        group = next((group for group in groups.values() if matches(name, group.match)), None)
        decays = value.ndim > 1 and not matches(name, no_decay)
        decay = weight_decay if decays else 0.0
        if group is not None and group.weight_decay is not None:
            decay = group.weight_decay
        factor = group.learning_rate_factor if group is not None else 1.0
        factor *= layer_decay ** behind.get(name, 0)
        collected.setdefault((factor, decay), []).append(value)
    return torch.optim.AdamW(
        [
            {"params": values, "lr": learning_rate * factor, BASE_RATE: learning_rate * factor, "weight_decay": decay}
            for (factor, decay), values in collected.items()
        ],
        betas=betas,
        eps=epsilon,
        fused=True,
    )
