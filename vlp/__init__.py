"""Vision-language pretraining: CLIP-style dual encoders, from shards to an evaluated, exported model.

From Python, what follows is enough for most (docs/python-api.md); nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
PLACES = {
    "load": "vlp.evaluate",
    "score": "vlp.evaluate",
    "read_embeddings": "vlp.embeddings.parts",
    "load_recipe": "vlp.recipe.compose",
    "load_card": "vlp.data.shards.cards",
    "load_task": "vlp.evaluators.base",
    "train_recipe": "vlp.train",
    "export_run": "vlp.export.run",
    "RecipeError": "vlp.ground.types",
}
__all__ = [*PLACES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'vlp' has no attribute '{name}'")
    return getattr(importlib.import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PLACES])
