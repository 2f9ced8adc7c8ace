"""An optimizer of parameter groups by pattern and depth."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from vlp.ground.patterns import check_matches, matches
from vlp.ground.strict import Strict
from vlp.ground.types import RecipeError
from vlp.step.optimizers.adamw import AdamW
from vlp.step.optimizers.base import Group, OptimizerKind, check_range
from vlp.step.taken_back import TakenBack

BASE_RATE = "base_learning_rate"
FIRST_STEP = "first_step"  # at which a group begins to move
CONSTANT = "constant_rate"
PULL = "decay_to_start"  # weight decay that pulls a group to where it started
Goal = Literal["zero", "start"]
TowerName = Literal["image", "text"]
BEGINNINGS: Mapping[TowerName, str] = {"image": "core.visual.", "text": "core.text."}


class GroupSettings(Strict):
    """Settings of the parameters whose names match.

    Args:
        match: Names as for `model.freeze`: parameters or groups above them, such as `visual`, `text.token_embedding`,
            `visual.*.attn.*` or `logit_scale`.
        learning_rate_factor: Multiplies the learning rate.
        weight_decay: Replaces the weight decay.
        decay_towards: Replaces what weight decay pulls towards.
        constant: Keep the learning rate as it is from the first step to the last, whatever the schedule.
    """

    match: tuple[str, ...]
    learning_rate_factor: float = Field(default=1.0, ge=0)
    weight_decay: float | None = Field(default=None, ge=0)
    decay_towards: Goal | None = None
    constant: bool = False


def build_optimizer(
    model: nn.Module,
    behind: Mapping[str, int] = MappingProxyType({}),
    kind: OptimizerKind | None = None,
    in_blocks: Collection[str] = (),
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.2,
    decay_towards: Goal = "zero",
    no_decay: tuple[str, ...] = (),
    layer_decay: float | dict[TowerName, float] = 1.0,
    unfreeze_every: Annotated[int, Field(ge=1)] | None = None,
    groups: dict[str, GroupSettings] = {},  # noqa: B006 (read only; the signature is the schema)
) -> torch.optim.Optimizer:
    """Build the optimizer that `type` names, AdamW where nothing does; each has settings of its own beside these.

    Args:
        model: Frozen parameters are left out.
        behind: How many blocks come behind a parameter in its tower, by name; those that are not named have none.
        kind: The optimizer; None is AdamW.
        in_blocks: Names of parameters that belong to a block of a tower.
        learning_rate: Peak of the schedule.
        weight_decay: Decoupled decay of matrices; gains, biases and other vectors do not decay to zero.
        decay_towards: What weight decay pulls towards: zero, or the values that a parameter had when training started,
            against forgetting (L2-SP, Li et al. 2018, arXiv:1802.01483). Towards the start vectors are pulled too, and
            so is what no weights were read for, unless `no_decay` or a group says otherwise. Terms' own networks decay
            to zero in any case.
        no_decay: Names of further parameters that do not decay, such as `text.token_embedding`.
        layer_decay: Multiplies the learning rate once for each block that comes behind a parameter in its tower, so
            that what a pretrained tower learned first changes least (Clark et al. 2020, arXiv:2003.10555; 0.65 to 0.9
            are usual); 1 gives all layers one rate. `{image: 0.7, text: 0.9}` gives each tower its own; a tower that is
            not named has 1, as does a decoder.
        unfreeze_every: Gradual unfreezing (Howard and Ruder 2018, arXiv:1801.06146): a parameter with b blocks behind
            it moves from step b times this number on; null moves all from the start. Until then its rate is zero, but
            gradients are computed and moments gather; no time is saved.
        groups: Parameters that need other settings, by label; the first match counts.

    Raises:
        RecipeError: A pattern matches no parameter, none is left to train, or a number is out of its range.
    """
    check_range("learning_rate", learning_rate, holds=learning_rate >= 0)
    check_range("weight_decay", weight_decay, holds=weight_decay >= 0)
    for decay in layer_decay.values() if isinstance(layer_decay, dict) else (layer_decay,):
        check_range("layer_decay", layer_decay, holds=0 < decay <= 1)
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not named:
        raise RecipeError("model.freeze: nothing is left to train: lock fewer parameters, or learn the scale")
    for label, wanted in groups.items():
        check_matches(wanted.match, named, f"optimizer.groups.{label}.match")
    check_matches(no_decay, named, "optimizer.no_decay")
    kind = kind or AdamW()
    collected: dict[tuple[object, ...], Group] = {}
    for name, value in named.items():
        group = next((group for group in groups.values() if matches(name, group.match)), None)
        goal = group.decay_towards if group is not None and group.decay_towards is not None else decay_towards
        decays = (value.ndim > 1 or goal == "start") and not matches(name, no_decay)
        decay = weight_decay if decays else 0.0
        if group is not None and group.weight_decay is not None:
            decay = group.weight_decay
        factor = group.learning_rate_factor if group is not None else 1.0
        factor *= _layer_decay_of(name, layer_decay) ** behind.get(name, 0)
        rate = learning_rate * factor
        said: Group = {"lr": rate, BASE_RATE: rate, "weight_decay": decay}
        if goal == "start" and decay > 0:
            said |= {"weight_decay": 0.0, PULL: decay}
        if group is not None and group.constant:
            said[CONSTANT] = True
        if unfreeze_every and behind.get(name, 0):
            said[FIRST_STEP] = unfreeze_every * behind[name]
        said |= kind.extra(value, in_block=name in in_blocks)
        collected.setdefault(tuple(said.items()), {"params": [], **said})["params"].append(value)
    optimizer = kind.build(list(collected.values()))
    if not kind.skips:
        TakenBack(optimizer, counters=kind.counters, copies=kind.copies)
    return optimizer


def _layer_decay_of(name: str, layer_decay: float | dict[TowerName, float]) -> float:
    if not isinstance(layer_decay, dict):
        return layer_decay
    return next((decay for tower, decay in layer_decay.items() if name.startswith(BEGINNINGS[tower])), 1.0)


def check_unfreezing(optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    """Refuse a training that ends before all parameters have moved.

    Raises:
        RecipeError: It does.
    """
    last = max(group.get(FIRST_STEP, 0) for group in optimizer.param_groups)
    if last >= num_steps:
        raise RecipeError(
            f"optimizer.unfreeze_every: the last parameters would move from step {last} on, and the training has "
            f"{num_steps}: set a smaller number, or lock them (model.freeze)"
        )
