"""Random numbers of sample ids: below 1 in every type, also where 64 bits are as large as they get."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw

from tests.objectives.batches import pairs_of, unit
from vlp.ground.draws import FIRST, GOLDEN, SECOND, below_one, uniform
from vlp.pairs import pick

WORD = 2**64
TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def unmixed(value: int) -> int:
    """Return what the finaliser of SplitMix64 turns into `value`."""
    for factor, places in ((1, 31), (SECOND, 27), (FIRST, 30)):
        value = value * pow(factor, -1, WORD) % WORD
        shifted = value
        for _ in range(64 // places):
            shifted = value ^ (shifted >> places)
        value = shifted
    return value


def id_with(bits: int, step: int, salt: int) -> int:
    """Return the sample id whose first draw is made of these 64 bits."""
    state = (unmixed(bits) - GOLDEN) % WORD
    state = unmixed(state) ^ ((salt * GOLDEN + 1) % WORD)
    number = (unmixed(state) - step - 1) * pow(GOLDEN, -1, WORD) % WORD
    return (number + WORD // 2) % WORD - WORD // 2


def draws_of(bits: int, dtype: torch.dtype, step: int = 3, salt: int = 7) -> torch.Tensor:
    """Return the only draw of a batch of one, made of these bits."""
    pairs = pairs_of(
        unit(1, 4, 1, dtype), unit(1, 4, 2, dtype), ids=torch.tensor([id_with(bits, step, salt)]), step=step
    )
    return pairs.draws(1, salt)


def test_bits_can_be_chosen():
    for bits in (0, 1 << 11, 5 << 60, WORD - 1):
        ids = torch.tensor([id_with(bits, 3, 7)])
        assert uniform(ids, 3, 7, 1).item() == (bits >> 11) * 2.0**-53


@pytest.mark.parametrize("dtype", TYPES)
def test_the_largest_hash_stays_below_one(dtype):
    """Rounding alone makes it 1 in every type but float64."""
    assert (uniform(torch.tensor([id_with(WORD - 1, 3, 7)]), 3, 7, 1).to(torch.float32) == 1).all()
    draws = draws_of(WORD - 1, dtype)
    assert 0 < draws.item() < 1
    assert below_one(torch.tensor([1 - 2.0**-53], dtype=torch.float64), dtype).item() < 1


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(below=draw.integers(0, 2**14), places=draw.integers(0, 50), things=draw.integers(1, 2**20))
def test_indices_of_extreme_draws_exist(dtype, below, places, things):
    bits = max(0, WORD - 1 - (below << places))
    draws = below_one(torch.tensor([(bits >> 11) * 2.0**-53, 0.0], dtype=torch.float64), dtype)
    assert bool(((draws >= 0) & (draws < 1)).all())
    chosen = pick(draws, things)
    assert bool(((chosen >= 0) & (chosen < things)).all())


def test_only_what_became_one_has_moved():
    numbers = torch.rand(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(below_one(numbers, torch.float32), numbers.float())


def test_indices_are_spread_evenly():
    ids = torch.arange(30_000)
    counts = pick(below_one(uniform(ids, 0, 1, 1), torch.float32), 3).flatten().bincount()
    assert counts.tolist() == pytest.approx([10_000] * 3, rel=0.03)  # four deviations
