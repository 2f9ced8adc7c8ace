"""What a strategy does when nothing is set can be built."""

from __future__ import annotations

import pytest

from vlp.ground.registry import settings_of
from vlp.strategies.base import strategies


@pytest.mark.parametrize("name", list(strategies))
def test_defaults_are_within_their_own_range(name):
    settings = settings_of(strategies[name])
    needed = [key for key, field in settings.model_fields.items() if field.is_required()]
    if needed:
        pytest.skip(f"needs {', '.join(needed)}")
    assert strategies.build(name, {}) is not None
