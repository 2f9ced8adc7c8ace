"""Whole trainings of the smoke recipe, watched step by step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.gpu.steps import TINY, synthetic_recipe
from benchmarks.gpu.waits import ROOT, Waits
from vlp import train
from vlp.embeddings.embed_views import embed_views
from vlp.export import export_model
from vlp.ground.yaml import read_yaml
from vlp.recipe.compose import load_recipe
from vlp.recipe.model import build_model
from vlp.recipe.schema import Recipe

STEPS, TOY_STEPS = 24, 8
FIRST_WATCHED = 3  # steps before it load kernels and make room
STRATEGY_BATCH = 16
STRATEGY_SETTINGS = (
    *TINY,
    "train={steps: 3, precision: float32, micro_batches: 1}",
    "schedule.warmup_steps=null",
    "optimizer.learning_rate=1e-4",
    "evaluation.weights=model",
    "log.every=1",
)
STRATEGY_FURTHER = {
    "fare": ("strategies={fare: {steps: 1}}",),
    "image_views": ("strategies.image_views={}", "objective.mv_infonce={}"),
    "local_to_global": (  # which begins late in its recipe
        "strategies.local_to_global={count: 2, size: 32}",
        "objective={self_distillation: {num_prototypes: 64}, masked_prediction: {num_prototypes: 64}}",
    ),
    "replay": (
        "data.train=embedded-photos",
        "strategies={replay: {sources: [embedded-photos]}, dual_teacher: {decay: 1.0, warmup: false}}",
        "objective.teacher_contrast={replayed: true}",
    ),
    "sequence_lengths": ("strategies.sequence_lengths={lengths: [1, 4]}",),
    "small_first": (
        "model.image={type: timm, name: resnet10t, image_size: 64}",
        "strategies.small_first={image_size: 32, steps: 2}",
    ),
    "short_first": ("strategies.short_first={tokens: 6, steps: 2}",),
    "unmasked_end": (  # of one patch, which is never left out: random numbers differ between devices
        "model.image.patch_size=32",
        "model.image.patch_dropout=0.5",
        "strategies.unmasked_end={steps: 2}",
    ),
}
"""What strategies need whose recipes name what is not here, or what no other device repeats."""
TEACHING = ("teacher", "stored_teacher")
LEARNING = ("data.train=embedded-photos", "objective.feature_distillation={}")  # from a teacher
PAUSES = ("write_metrics", "save_or_say", "evaluate")
"""Parts of a run that may wait for the device."""


@dataclass(frozen=True)
class Size:
    """How much of the smoke recipe is trained.

    Args:
        batch: Pairs of one batch.
    """

    steps: int
    batch: int
    settings: tuple[str, ...] = ()


SIZES = {
    "cuda": Size(STEPS, 128),
    "cpu": Size(TOY_STEPS, 16, ("model.image.layers=1", "model.text.layers=1")),
}
"""By device: on the CPU the same at the size of a toy."""


def smoke(device: str, folder: Path, name: str, *overrides: str) -> Recipe:
    """Return the smoke recipe without dropout, whose random numbers would differ between devices."""
    size = SIZES[device]
    return load_recipe(
        "smoke",
        [
            f"train={{samples: null, steps: {size.steps}, batch_size: {size.batch}, threads: 1}}",
            "model.image.patch_dropout=0.0",
            "optimizer.learning_rate=3e-4",  # with the 1e-3 of the recipe the loss soon stands still
            *size.settings,
            "evaluation={tasks: [], every: null}",
            f"checkpoint.every={size.steps // 2}",
            "log.every=1",
            f"runs={folder}",
            f"name={name}",
            *overrides,
        ],
    )


def strategy_recipe(strategy: str, folder: Path) -> Recipe:
    """Return a few steps of the first recipe that uses a strategy, with tiny towers on the shipped pairs.

    Raises:
        LookupError: No recipe does.
    """
    further = STRATEGY_FURTHER.get(strategy)
    if strategy in TEACHING:
        further = (*LEARNING, taught(strategy, folder))
    if further is not None:
        return synthetic_recipe("vitb32_clip", folder, STRATEGY_BATCH, (*STRATEGY_SETTINGS, *further), label=strategy)
    using = first_recipes()
    if strategy not in using:
        raise LookupError(f"no recipe uses the strategy {strategy}")
    path = using[strategy]
    return synthetic_recipe(str(path), folder, STRATEGY_BATCH, STRATEGY_SETTINGS, label=f"{path.stem}_{strategy}")


@cache
def first_recipes() -> dict[str, Path]:
    """Return the first recipe that uses each strategy; those that start from weights come last."""
    found: dict[str, Path] = {}
    for path in sorted((ROOT / "recipes").glob("*.yaml"), key=lambda path: (path.stem.startswith("finetune"), path)):
        for label, entry in (read_yaml(path).get("strategies") or {}).items():
            if entry is not None:  # null takes one away
                found.setdefault(entry.get("type", label), path)
    return found


def has_recipe(strategy: str) -> bool:
    """Whether a few steps with a strategy can be trained here: not of one that no recipe uses yet."""
    return strategy in TEACHING or strategy in STRATEGY_FURTHER or strategy in first_recipes()


def taught(strategy: str, folder: Path) -> str:
    """Return the setting of a toy that teaches, or of what it has said of the views that a training will draw."""
    place = folder / "toy"
    if not place.exists():
        torch.manual_seed(0)
        model = build_model(load_recipe("smoke", TINY).model)
        export_model(model, place, name="toy", recipe_text="", results=[], data_note="", formats=("open_clip",))
    if strategy == "teacher":
        return f"strategies.teacher={{models: [{place}]}}"
    views = synthetic_recipe("vitb32_clip", folder, STRATEGY_BATCH, (*STRATEGY_SETTINGS, LEARNING[0]), label="views")
    embed_views(str(place), ["embedded-photos"], folder / "said", views, epochs=1, kind="float32")
    return f"strategies.stored_teacher={{folders: [{folder / 'said'}]}}"


def losses_of(folder: Path) -> list[float]:
    """Return the loss of every step of a run."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def watched_run(
    recipe: Recipe,
    device: str,
    *,
    resume: bool = False,
    before_step: Callable[[int], None] | None = None,
    tf32: bool = False,
) -> Counter[str]:
    """Train, and return where the host waited for the device in ordinary steps.

    Args:
        before_step: Is told the number of each step.
        tf32: Let products in the towers drop digits of float32, as the trainer does where it may.
    """
    waits, watching = Waits(device), ExitStack()
    original = train.one_step

    def one_step(parts: Any, batch: Any, step: int, *, has_twins: bool | None = None) -> Any:
        if before_step is not None:
            before_step(step)
        if not tf32:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        # from here on the fetching of batches counts too; on the CPU, watching would undo compilation
        if step == FIRST_WATCHED and (device == "cuda" or not recipe.train.compile):
            watching.enter_context(waits.watched())
        return original(parts, batch, step, has_twins=has_twins)

    with watching, _pausing(waits, PAUSES), patch.object(train, "one_step", one_step):
        train.train(recipe, resume=resume)
    return waits.places


@contextmanager
def _pausing(waits: Waits, names: Sequence[str]) -> Iterator[None]:
    def pausing(function: Callable[..., Any]) -> Callable[..., Any]:
        def paused(*args: Any, **kwargs: Any) -> Any:
            with waits.pause():
                return function(*args, **kwargs)

        return paused

    with ExitStack() as patches:
        for name in names:
            patches.enter_context(patch.object(train, name, pausing(getattr(train, name))))
        yield
