"""A recipe that trains in half a second, for tests of everything around the model."""

from __future__ import annotations

from pathlib import Path

from vlp.recipe.compose import load_recipe
from vlp.recipe.schema import Recipe

# of the text tower, 49,408 words are nearly everything: a run takes half the time with rows of 8 instead of 32
TOWERS = """
model:
  embed_dim: 16
  image: {type: vit, layers: 1, width: 32, head_width: 16, patch_size: 16, image_size: 32, patch_dropout: 0.5}
  text: {type: transformer, layers: 1, width: 8, heads: 1, context_length: 16}
"""


def tiny_recipe(folder: Path, shards: str, *overrides: str) -> Recipe:
    """Return a recipe over local shards; its run folder is `folder/runs/tiny`.

    Args:
        shards: Pattern of the tars.
        overrides: `key.sub=value` settings.
    """
    card = folder / "card.yaml"
    card.write_text(f"name: tiny\nshards: {shards}\n")
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: tiny\nruns: {folder / 'runs'}\ndata: {{train: {{tiny: {{card: {card}}}}}, workers: 0}}\n{TOWERS}\n"
        "objective: {clip: {}, uniformity: {weight: {start: 0.0, end: 0.1, last_step: 4}}}\n"
        "strategies: {ema: {decay: 0.9}}\n"
        "train: {steps: 6, batch_size: 8, threads: 1}\n"
        "evaluation: {weights: ema}\n"
        "checkpoint: {every: 3, keep: 3}\n"
        "log: {every: 1}\n"
    )
    return load_recipe(str(path), overrides)
