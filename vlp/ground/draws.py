"""Random numbers on any device as pure functions of sample ids: SplitMix64 once more, on tensors."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vlp.ground import randomness


def _signed(value: int) -> int:
    """Wrap into 64 bits, as tensors do by themselves."""
    return (value + 2**63) % 2**64 - 2**63


GOLDEN, FIRST, SECOND = map(_signed, (randomness.GOLDEN, randomness.FIRST, randomness.SECOND))


def uniform(ids: Int64[Tensor, " n"], step: int, salt: int, count: int) -> Float64[Tensor, "n count"]:
    """Return numbers in [0, 1): the finaliser of SplitMix64 over (id, step, salt, column)."""
    state = _mix(ids * GOLDEN + step + 1)
    state = _mix(state ^ _signed(salt * GOLDEN + 1))
    columns = torch.arange(1, count + 1, device=ids.device)
    bits = _mix(state[:, None] + columns * GOLDEN)
    return _shift(bits, 11).double() * 2.0**-53


def below_one(numbers: Float64[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """Round numbers in [0, 1) to another type without leaving [0, 1): to float32, one in 2^25 would become 1."""
    return numbers.to(dtype).clamp(max=1 - torch.finfo(dtype).eps / 2)


def pick(draws: Float[Tensor, "*shape"], num_things: int | Int64[Tensor, "*#shape"]) -> Int64[Tensor, "*shape"]:
    """Turn numbers in [0, 1) into indices of one of `num_things`, whatever the product rounds to."""
    wide = draws.to(torch.promote_types(draws.dtype, torch.float32))
    return (wide * num_things).long().clamp(max=num_things - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * FIRST
    value = (value ^ _shift(value, 27)) * SECOND
    return value ^ _shift(value, 31)


def _shift(value: Tensor, places: int) -> Tensor:
    """Shift right without copying the sign."""
    return (value >> places) & ((1 << (64 - places)) - 1)
