"""What a strategy does when nothing is set can be built."""

from __future__ import annotations

import pytest

from vlp.ground.registry import settings_of
from vlp.strategies.base import strategies

COMPLETE = [
    name
    for name in strategies
    if not any(field.is_required() for field in settings_of(strategies[name]).model_fields.values())
]


@pytest.mark.parametrize("name", COMPLETE)
def test_defaults_are_within_their_own_range(name):
    assert strategies.build(name, {}) is not None
