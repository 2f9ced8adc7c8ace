"""Parts of recipes and terms as narrow as tests want them: each number is computed again and again."""

from __future__ import annotations

from pydantic import BaseModel

NARROW = {"hidden_width": 32, "num_prototypes": 48, "queue": 2048, "width": 32}
"""Most of what parts have beside the towers: narrow ones launch as many kernels as wide ones."""


def narrow(entry: BaseModel) -> dict[str, int]:
    """Return the settings of an entry that would make it as wide as a real one, and what they are here."""
    return {name: most for name, most in NARROW.items() if (getattr(entry, name, None) or 0) > most}
