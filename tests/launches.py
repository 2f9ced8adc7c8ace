"""How many kernels one step of each shipped recipe launches, with towers of one block, as counted on the CPU.

python -m tests.launches      # after a change that is meant to add some, or has saved some
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.launches import by_part
from benchmarks.gpu.waits import Waits
from tests.small_steps import PLAIN_STEPS, RECIPES, batch_for, small_parts, small_recipe
from vlp import train
from vlp.pairs.engine import matrix

KEPT = Path(__file__).with_suffix(".json")
SIZE = 16


def count(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[int, set[str]]:
    """Count in a recipe's second step; the first makes what later ones keep.

    Returns:
        The launches, and the places of the backward pass at which the host would wait for a device.
    """
    monkeypatch.setattr(matrix, "bound_of_cosines", lambda *_: None)  # an accelerator is not asked: it would wait
    recipe = small_recipe(name, *PLAIN_STEPS)
    parts = small_parts(monkeypatch, recipe)
    train.one_step(parts, batch_for(recipe, SIZE, 0), 0)
    waits = Waits("cpu")
    for owner, function in ((torch.Tensor, "backward"), (torch.autograd, "grad")):
        monkeypatch.setattr(owner, function, waits.watched()(getattr(owner, function)))
    return by_part(parts, batch_for(recipe, SIZE, 1))["launches"], set(waits.places)


def main() -> None:
    """Write what every recipe launches now."""
    found = {}
    for name in RECIPES:
        with pytest.MonkeyPatch.context() as patches:
            found[name], _ = count(patches, name)
    kept = {"torch": torch.__version__, "launches": found}  # other versions take other operations apart
    KEPT.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
