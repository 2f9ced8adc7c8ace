"""Whether stored teachers have seen the views that a training draws."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vlp.data import Stream
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError
from vlp.recipe.inflation import inflated
from vlp.recipe.schema import Recipe
from vlp.strategies.base import Strategy
from vlp.strategies.stored_teacher import StoredTeacher
from vlp.towers.dual import DualEncoder


def what_views_follow_from(recipe: Recipe, towers: DualEncoder) -> dict[str, Any]:
    """Return what decides the first view of each image and each caption, by key of the recipe.

    A view is drawn for an epoch of its source and the sample's number among all sources: shares only say when it comes.

    Raises:
        RecipeError: Batches come from groups, or images keep their aspect ratio.
    """
    if towers.budget is not None:
        raise RecipeError(
            "model.image.max_patches: what teachers say of images that keep their aspect ratio is not stored: leave it "
            "out"
        )
    data = inflated(recipe.data)
    if data.groups is not None:
        raise RecipeError(
            "data.groups: batches of one group leave samples out of an epoch, and views are stored by epoch: use "
            "strategies.teacher"
        )
    sources = {label: [load_card(source.card).fingerprint, source.repeat] for label, source in data.train.items()}
    prepared = towers.preprocess_cfg
    return {
        "seed": recipe.seed,
        "data.train": sources,
        "data.crop": data.crop.model_dump(mode="json"),
        "data.captions": data.captions.model_dump(mode="json", exclude={"negatives"}),
        "data.policy": None if data.policy is None else data.policy.model_dump(mode="json"),
        "data.augment": data.augment.model_dump(mode="json"),
        "data.spare_first_view": data.spare_first_view,
        "model.image.image_size": towers.image_size,
        "model.mean": list(prepared["mean"]),
        "model.std": list(prepared["std"]),
    }


def settle_stored_teachers(
    recipe: Recipe, towers: DualEncoder, stream: Stream, used: Mapping[str, Strategy], num_steps: int
) -> None:
    """Refuse teachers that have seen other views, or too few; let views come again where the recipe wants it.

    Raises:
        RecipeError: Names what differs.
    """
    for label, strategy in used.items():
        if not isinstance(strategy, StoredTeacher):
            continue
        ours = what_views_follow_from(recipe, towers)
        for each in strategy.stored:
            _check_same_views(label, str(each.folder), each.decides, ours)
        epochs = stream.epochs_begun(recipe.train.batch_sizes.start(num_steps))
        if strategy.cycle:
            stream.repeat_views(strategy.num_epochs)
        elif epochs > strategy.num_epochs:
            raise RecipeError(
                f"strategies.{label}: the training begins {epochs} epochs, and views of {strategy.num_epochs} are "
                f"stored: embed more (vlp embed --views {epochs}), train for fewer, or set "
                f"strategies.{label}.cycle=true to show the stored ones again"
            )


def _check_same_views(label: str, folder: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for key, value in ours.items():
        if json.dumps(theirs.get(key)) != json.dumps(value):  # the order of sources decides too
            raise RecipeError(
                f"strategies.{label}: {folder} holds views of another {key} ({theirs.get(key)}, not {value}): embed "
                "those of this recipe, to another folder"
            )
