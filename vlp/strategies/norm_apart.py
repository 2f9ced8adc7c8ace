"""Batch norms that normalise changed images by themselves, whose statistics would spoil those of clean ones."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vlp.towers.freeze import is_locked


class NormApart:
    """Lets the last rows of a training pass be normalised by their own mean and variance; gains and shifts are shared.

    Xie et al. 2020, section 4 (arXiv:1911.09665), whose second norms have gains and shifts too; Ho and Vasconcelos 2020
    (arXiv:2010.12050). The averages that evaluation uses are those of the other rows alone. Both papers also average
    the statistics of changed images, which nobody reads.

    Several on one tower each have rows of their own, those of the newest at the end.

    Args:
        tower: Its batch norms that train do so; where it has none, nothing happens.

    Attributes:
        share: Which share of the rows comes last, without those of newer ones; 0 for none. Counts until it is set anew,
            as a pass may be recomputed.
    """

    def __init__(self, tower: nn.Module):
        self.share = 0.0
        self._aside: dict[nn.Module, Tensor] = {}
        for norm in [module for module in tower.modules() if isinstance(module, _BatchNorm)]:
            if norm.track_running_stats and not is_locked(norm):
                twin = _without_averages(norm)
                # what was watched last stands last among the rows: it takes them first, and puts them back last
                norm.register_forward_pre_hook(self._set_aside, prepend=True)
                norm.register_forward_hook(partial(self._add, twin))

    def _set_aside(self, norm: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        (rows,) = inputs
        if not norm.training or self.share == 0:
            return None
        last = round(self.share * len(rows))
        kept, self._aside[norm] = rows.split([len(rows) - last, last])
        return (kept,)

    def _add(self, twin: Any, norm: nn.Module, _inputs: tuple[Tensor], found: Tensor) -> Tensor | None:
        rows = self._aside.pop(norm, None)
        if rows is None:
            return None
        twin.weight, twin.bias = norm.weight, norm.bias  # those of now: sharded ones come and go
        return torch.cat([found, twin(rows)])


def _without_averages(norm: _BatchNorm) -> _BatchNorm:
    twin = copy.deepcopy(norm)
    twin._forward_pre_hooks.clear()  # of others that have watched the norm already
    twin._forward_hooks.clear()
    twin.track_running_stats = False
    twin.running_mean = twin.running_var = twin.num_batches_tracked = None
    return twin
