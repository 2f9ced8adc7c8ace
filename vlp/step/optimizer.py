"""AdamW with parameter groups by pattern, learning rates over a run, and steps that a NaN cannot spoil."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vlp.ground.patterns import check_matches, matches
from vlp.ground.types import RecipeError

Norm = Tensor
BASE_RATE = "base_learning_rate"


class GroupSettings(BaseModel):
    """Settings of the parameters whose names match.

    Args:
        match: Names as for `model.freeze`: parameters or groups above them, such as `visual`, `text.token_embedding`,
            `visual.*.attn.*` or `logit_scale`.
        learning_rate_factor: Multiplies the learning rate.
        weight_decay: Replaces the weight decay.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: tuple[str, ...]
    learning_rate_factor: float = 1.0
    weight_decay: float | None = None


def build_optimizer(
    model: nn.Module,
    *,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.98),
    epsilon: float = 1e-6,
    weight_decay: float = 0.2,
    no_decay: tuple[str, ...] = (),
    groups: dict[str, GroupSettings] = {},  # noqa: B006 (read only; the signature is the schema)
) -> torch.optim.AdamW:
    """Build fused AdamW; gains, biases and other vectors never decay.

    Args:
        model: Frozen parameters are left out.
        learning_rate: Peak of the schedule.
        betas: Decay of the two moments; CLIP lowers the second to 0.98.
        epsilon: Added to the root of the second moment.
        weight_decay: Decoupled decay of matrices.
        no_decay: Names of further parameters that do not decay, such as `text.token_embedding`.
        groups: Parameters that need other settings, by label; the first match counts.

    Raises:
        RecipeError: A pattern matches no parameter, or none is left to train.
    """
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


def learning_rate_factor(
    num_steps: int,
    *,
    warmup_steps: int | None = None,
    warmup_share: float = 0.05,
    shape: Literal["cosine", "constant", "cooldown"] = "cosine",
    final_factor: float = 0.0,
    cooldown_share: float = 0.2,
) -> Callable[[int], float]:
    """Return the factor of the learning rate at each step.

    Args:
        num_steps: Length of the training.
        warmup_steps: Steps of linear warm-up; replaces `warmup_share`.
        warmup_share: Warm-up as a share of the training.
        shape: After the warm-up: half a cosine, flat, or flat with a linear end.
        final_factor: Factor at the last step (cosine, cooldown).
        cooldown_share: Share of the training in the linear end.
    """
    warmup = warmup_steps if warmup_steps is not None else round(warmup_share * num_steps)
    cooldown = max(1, round(cooldown_share * num_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if shape == "constant":
            return 1.0
        if shape == "cooldown":
            left = min(1.0, (num_steps - step) / cooldown)
            return final_factor + (1 - final_factor) * left
        done = (step - warmup) / max(1, num_steps - warmup)
        return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's peak learning rate by `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group[BASE_RATE] * factor


def gradient_norms(towers: Mapping[str, list[nn.Parameter]]) -> dict[str, Norm]:
    """Return the gradient norm of each named set of parameters, on the device."""
    norms = {}
    for name, parameters in towers.items():
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norms[name] = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return norms


def total_norm(norms: Mapping[str, Norm]) -> Norm:
    """Combine the norms of disjoint sets of parameters."""
    return torch.stack(list(norms.values())).square().sum().sqrt()


class SafeStep:
    """Clip, check and step without waiting for the device; a bad gradient leaves weights and moments untouched.

    The fused kernel skips the update where `found_inf` is set. After averaging, all processes see the same norm and
    so decide alike. For float16 the loss is scaled; the scale halves on overflow and doubles after a calm stretch.

    Args:
        optimizers: Fused ones.
        max_norm: Largest total gradient norm; None does not clip.
        loss_scale: Factor on the loss at the start; 1 switches scaling off.
    """

    CALM_STEPS = 2000

    def __init__(
        self, optimizers: Sequence[torch.optim.Optimizer], *, max_norm: float | None, loss_scale: float, device: str
    ):
        self.optimizers = optimizers
        self.max_norm = max_norm
        self.scales = loss_scale != 1.0
        self.state = {
            "loss_scale": torch.tensor(loss_scale, device=device),
            "calm": torch.zeros((), device=device),
            "skipped": torch.zeros((), device=device),
            "streak": torch.zeros((), device=device),
        }
        self.taken = torch.ones((), device=device, dtype=torch.bool)

    @property
    def loss_scale(self) -> Tensor:
        """Factor that the loss carries into backward."""
        return self.state["loss_scale"]

    def __call__(self, towers: Mapping[str, list[nn.Parameter]]) -> dict[str, Norm]:
        """Step once; return each tower's gradient norm before clipping. `taken` says whether weights have moved."""
        norms = {name: norm / self.loss_scale for name, norm in gradient_norms(towers).items()}
        norm = total_norm(norms)
        self.taken = torch.isfinite(norm)
        bad = (~self.taken).float()
        shrink = 1.0 if self.max_norm is None else (self.max_norm / (norm + 1e-6)).clamp(max=1.0)
        gradients = [p.grad for parameters in towers.values() for p in parameters if p.grad is not None]
        if self.scales or self.max_norm is not None:
            torch._foreach_mul_(gradients, torch.as_tensor(shrink / self.loss_scale))
        for optimizer in self.optimizers:
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # read by torch's fused kernels
            optimizer.step()
        self._count(bad)
        return norms

    def _count(self, bad: Tensor) -> None:
        state = self.state
        state["skipped"] += bad
        state["streak"] = (state["streak"] + 1) * bad
        if self.scales:
            calm = (state["calm"] + 1) * (1 - bad)
            grows = calm >= self.CALM_STEPS
            state["loss_scale"] = torch.where(
                bad > 0, state["loss_scale"] * 0.5, torch.where(grows, state["loss_scale"] * 2, state["loss_scale"])
            )
            state["calm"] = torch.where(grows, torch.zeros_like(calm), calm)
