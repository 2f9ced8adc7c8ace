"""One step of the optimizers, taken only where the gradient is sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vlp.ground import dist

Norm = Tensor


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

    A fused kernel skips the update where `found_inf` is set, `TakenBack` takes that of other optimizers back, and a
    pull to the start has no length then. After averaging, all processes see the same norm and so decide alike. For
    float16 the loss is scaled; the scale halves on overflow and doubles after a calm stretch.

    Args:
        optimizers: Those that heed `found_inf`, in the order in which they step.
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
        # of sharded ones what lies here: those of terms are whole beside them, and one call takes one kind
        gradients = [dist.own_part(p.grad) for parameters in towers.values() for p in parameters if p.grad is not None]
        if self.scales or self.max_norm is not None:
            torch._foreach_mul_(gradients, torch.as_tensor(shrink / self.loss_scale))
        for optimizer in self.optimizers:
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # read as said above
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
