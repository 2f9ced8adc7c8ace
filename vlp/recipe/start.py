"""The towers of a recipe that names weights alone: those that the weights belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlp.ground.yaml import read_yaml
from vlp.recipe.layers import Layer
from vlp.towers.sources import architecture_of, read_config

LOCK = "recipe.lock.yaml"  # in a run folder: the recipe, with all that was decided
CHECKPOINTS = "checkpoints"  # beside it: a folder for each
SIDES = ("image", "text")
OF_THE_TRAINING = ("weights", "tune", "freeze", "lock_batch_norm", "grad_checkpointing", "text_buckets", "learn_scale")


def start_layer(model: Mapping[str, Any]) -> list[Layer]:
    """Return the layer of settings that `model.weights` stands for, where a tower has no `type`.

    The towers of a run are those of its lock; of anything else, what open_clip calls it or the folder says.

    Raises:
        RecipeError: A bare file of weights, which does not say what its towers are.
    """
    weights = model.get("weights")
    lacking = [side for side in SIDES if not isinstance(model.get(side), Mapping) or "type" not in model[side]]
    if not isinstance(weights, str) or not lacking:
        return []
    lock = next((folder / LOCK for folder in _folders_above(weights) if (folder / LOCK).is_file()), None)
    if lock is not None:
        settings = _without_weights(read_yaml(lock)["model"])
    else:
        name = architecture_of(weights)
        sides = (*SIDES, *(("decoder",) if "multimodal_cfg" in read_config(name)["model_cfg"] else ()))
        settings = {side: {"type": "open_clip", "name": name} for side in sides}
    return [
        Layer(
            f"model.weights {weights}", {"model": {k: v for k, v in settings.items() if k in lacking or k not in SIDES}}
        )
    ]


def _folders_above(weights: str) -> Iterator[Path]:
    """Yield what may be the run folder of `RUN`, `RUN:LABEL`, a checkpoint in it, or a file of a checkpoint."""
    for name in (weights, weights.rpartition(":")[0]):
        path = Path(name).expanduser()
        yield from (path,) if name else ()
        yield from (folder.parent for folder in path.parents[:2] if folder.name == CHECKPOINTS)


def _without_weights(model: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in model.items() if key not in OF_THE_TRAINING}
    for side in SIDES:
        kept = {key: value for key, value in found[side].items() if key not in ("weights", "pretrained")}
        found[side] = kept
    return found
