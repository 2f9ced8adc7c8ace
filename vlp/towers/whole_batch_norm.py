"""Batch norm over the batches of all processes where torch has none: on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from vlp.ground import dist


class WholeBatchNorm(_BatchNorm):
    """Standardise each channel over the batches of all processes, as `torch.nn.SyncBatchNorm` does on a GPU.

    Args:
        norm: What it takes the place of: its parameters, its averages, and what timm puts behind a norm stay the same.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = norm.affine, norm.track_running_stats
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.drop, self.act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())
        self.train(norm.training)

    def forward(self, rows: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c *places"]:
        """Normalise this process's rows; each process calls this as often as any other."""
        if self.training or self.running_mean is None:
            found = self._normalise(rows)
        else:
            averages = self.running_mean, self.running_var
            found = functional.batch_norm(rows, *averages, self.weight, self.bias, eps=self.eps)
        behind: Tensor = self.act(self.drop(found))
        return behind

    @torch.compiler.disable  # what processes exchange is no part of a graph
    def _normalise(self, rows: Tensor) -> Tensor:
        wide = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
        others = [axis for axis in range(rows.dim()) if axis != 1]
        along = [1, -1, *(1 for _ in others[1:])]
        here = wide.new_tensor([wide.numel() / wide.shape[1]])
        sums = dist.total(torch.cat([wide.sum(others), here]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean.view(along)
        variance = dist.total(centred.square().sum(others)) / count
        if self.training and self.track_running_stats:
            self._remember(mean.detach(), variance.detach() * count / (count - 1))
        gain = (variance + self.eps).rsqrt()
        found = centred * (gain if self.weight is None else gain * self.weight).view(along)
        return (found if self.bias is None else found + self.bias.view(along)).to(rows.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        counted: Any = self.num_batches_tracked
        counted += 1
        share = 1 / float(counted) if self.momentum is None else self.momentum
        for average, now in ((self.running_mean, mean), (self.running_var, variance)):
            if average is not None:
                average.lerp_(now.to(average.dtype), share)


def put_whole_batch_norms(module: nn.Module) -> None:
    """Let each batch norm below a module see the batches of all processes; names of parameters stay."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, WholeBatchNorm(child))
        else:
            put_whole_batch_norms(child)
