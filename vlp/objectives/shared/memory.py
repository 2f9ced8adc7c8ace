"""What terms remember of single samples, by sample id, alike on every process and saved in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from vlp.ground.undo import TakesBack

NEVER_SEEN = math.inf


class Visits:
    """The samples of a whole batch, each once: one that stands there twice counts once, with the mean of its values.

    Args:
        everyones_ids: Sample ids of the whole batch; `places` finds each again among the rising `ids`, where one that
            stands in the batch twice does so too, with the same values: to drop it, an accelerator would be waited for.
    """

    def __init__(self, everyones_ids: Int64[Tensor, " b"]):
        self.ids = everyones_ids.sort().values
        self.places = torch.searchsorted(self.ids, everyones_ids)
        self._firsts = torch.searchsorted(self.ids, self.ids)
        self._counts = torch.zeros_like(self.ids).index_add_(0, self.places, torch.ones_like(self.places))

    def mean(self, values: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Return the mean of each sample's values."""
        sums = torch.zeros_like(values).index_add_(0, self.places, values)
        return (sums / self._counts[:, None])[self._firsts]

    def log_mean_exp(self, values: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Return the log of the mean of the exponentials of each sample's values."""
        largest = torch.full_like(values, -math.inf)
        largest.scatter_reduce_(0, self.places[:, None].expand_as(values), values, "amax")
        return self.mean((values - largest[self.places]).exp()).log() + largest[self._firsts]


class SampleMemory(TakesBack):
    """A row of numbers per sample; the table grows with the largest id where nobody reserved enough.

    Args:
        fresh: The row of a sample that was never seen.
    """

    rows: Tensor

    def __init__(self, fresh: Sequence[float]):
        super().__init__()
        self._fresh = tuple(fresh)
        self._is_reserved = False
        self._last: tuple[int, Tensor, Tensor] | None = None  # size, ids and rows before the last change
        self._size = 0
        self.register_buffer("rows", torch.empty(0, len(self._fresh)))

    def read(self, ids: Int64[Tensor, " b"], dtype: torch.dtype) -> Float[Tensor, "b k"]:
        """Return the rows of samples whose ids never fall."""
        self.rows = self.rows.to(ids.device)
        self._size = len(self.rows)
        if not self._is_reserved:
            self._grow(int(ids[-1]) + 1)
        return self.rows[ids].to(dtype)

    def reserve(self, num_samples: int) -> None:
        """Make room for all samples, so that no step waits for the device to learn its largest id."""
        self._grow(num_samples)
        self._is_reserved = True

    def _grow(self, size: int) -> None:
        missing = size - len(self.rows)
        if missing > 0:
            self.rows = torch.cat([self.rows, self.rows.new_tensor(self._fresh).expand(missing, -1)])

    def write(self, ids: Int64[Tensor, " b"], values: Float[Tensor, "b k"]) -> None:
        """Replace the rows of samples that were read before; equal ids have equal values."""
        self._last = self._size, ids, self.rows[ids]
        self.rows[ids] = values.to(self.rows.dtype)

    def begin(self) -> None:
        self._last = None

    def take_back_unless(self, taken: Bool[Tensor, ""]) -> None:
        if self._last is None:
            return
        size, ids, before = self._last
        self.rows[ids] = torch.where(taken, self.rows[ids], before)
        if len(self.rows) > size and not bool(taken):  # a table that grows has waited for the device already
            self.rows, self._last = self.rows[:size].clone(), None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}rows")
        if saved is not None:
            self.rows = self.rows.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def moving_log_mean(before: Tensor, now: Tensor, gamma: Float64[Tensor, ""]) -> Tensor:
    """Return the logs of moving averages after one more value each, in which it has the weight `gamma`.

    Args:
        before: Logs of the averages; `NEVER_SEEN` where there is none, which takes the value as it is.
        now: Logs of the values; one that is not finite changes nothing.
    """
    moved = torch.logaddexp(before + torch.log1p(-gamma), now + gamma.log())
    after = moved.where(before != NEVER_SEEN, now)
    return after.where(now.isfinite(), before)


def raised(log_means: Tensor, epsilon: float) -> Tensor:
    """Return the logs of means to which a small number is added, against those that are nearly nothing."""
    return log_means if not epsilon else torch.logaddexp(log_means, torch.full_like(log_means, math.log(epsilon)))


class NewestWeight:
    """The weight of the newest value by update: falling from 1 along half a cosine, where there are `steps`.

    Raises:
        ValueError: `gamma` outside (0, 1], or negative `steps`.
    """

    def __init__(self, gamma: float, steps: int):
        if not 0 < gamma <= 1 or steps < 0:
            raise ValueError(f"gamma {gamma} must lie in (0, 1], gamma_steps {steps} must not be negative")
        self.gamma = gamma
        self.steps = steps

    def __call__(self, num_updates: Int64[Tensor, ""]) -> Float64[Tensor, ""]:
        """Return the weight after so many updates, where they are counted: nobody waits for their number."""
        if not self.steps:
            return torch.full_like(num_updates, self.gamma, dtype=torch.float64)
        progress = (num_updates.double() / self.steps).clamp(max=1)
        done = (1 - torch.cos(math.pi * progress)) / 2
        return self.gamma * done + (1 - done)


def check_budget(budget: float, num_samples: int) -> None:
    """Refuse a divergence from uniform weights that no weights over the other samples reach.

    Raises:
        ValueError: `budget` is not below the log of their number.
    """
    if num_samples > 1 and budget >= math.log(num_samples - 1):
        raise ValueError(
            f"budget {budget} must be below log(samples - 1) = {math.log(num_samples - 1):.2f}, or every temperature "
            "falls to its floor: set a smaller budget, or train on more samples"
        )
