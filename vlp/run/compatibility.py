"""What does not fit together in a recipe, said before the first step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch

from vlp.evaluators.base import load_task
from vlp.evaluators.comparison.task_scores import sign_of
from vlp.evaluators.variants import name_in_records
from vlp.ground import dist
from vlp.ground.types import RecipeError, VlpWarning
from vlp.objectives.base import NEEDS, Objective, Term, terms
from vlp.recipe.schema import Recipe
from vlp.step.optimizers.base import optimizers
from vlp.strategies.base import Strategy
from vlp.strategies.hard_negatives import HardNegatives
from vlp.towers.dual import DualEncoder
from vlp.towers.sources import holds_weights

PROVIDERS = {
    "reference": "lock the image tower (model.freeze=[visual]) or add a teacher (strategies.ema_teacher={})",
    "teacher": "add one (strategies.dual_teacher={} for averaged weights, strategies.teacher={models: [NAME]} for "
    "other models)",
    "caption_losses": "give the model a decoder (model.decoder={type: transformer} with model.image.pooler_queries=257 "
    "and model.text.pool=cls, or the name of a CoCa of open_clip in all three)",
    "negatives": "add some (strategies.shuffled_captions={}, or strategies.hard_negatives={} with "
    "data.captions.negatives={})",
}


def check_fit(
    recipe: Recipe, towers: DualEncoder, objective: Objective, used: Mapping[str, Strategy], *, sharded: bool
) -> None:
    """Refuse combinations that would be wrong, and warn of those that rarely do any good.

    Raises:
        RecipeError: Names the keys and a way out.
    """
    _check_precision(recipe)
    _check_weights(recipe, towers)
    _check_batch(recipe)
    _check_micro_batches(recipe, sharded=sharded)
    _check_batch_norm(recipe, towers)
    _check_optimizer(recipe, towers)
    provided = {"reference"} if towers.locked_image else set()
    provided |= {"caption_losses"} if towers.decoder is not None else set()
    _check_decoder(towers, objective)
    for label, strategy in used.items():
        provided |= strategy.provides
        if sharded and not strategy.can_shard:
            raise RecipeError(f"strategies.{label}: cannot work on sharded parameters: train with DDP")
    _check_providers(recipe, used)
    _check_views(recipe, objective, used)
    _check_contrast(objective)
    for label, module in objective.terms.items():
        _check_term(label, cast(Term, module), provided, learns_scale=recipe.model.learn_scale)
    _check_rules(recipe)


def _check_decoder(towers: DualEncoder, objective: Objective) -> None:
    if towers.decoder is not None and "caption_losses" not in objective.needs:
        raise RecipeError(
            "model.decoder: no term trains it, and it costs time: add objective.captioning={weight: 2.0}, or leave it "
            "out (model.decoder=null)"
        )


def _check_rules(recipe: Recipe) -> None:
    """Refuse to stop by numbers that are neither good nor bad."""
    tasks = {name_in_records(name): load_task(name) for name in recipe.evaluation.tasks}
    for label, rule in recipe.evaluation.stop_when.items():
        task = tasks[name_in_records(rule.task)]
        if not sign_of(task.evaluator, rule.metric or task.main_metric):
            raise RecipeError(
                f"evaluation.stop_when.{label}: more of {rule.metric or task.main_metric} is neither better nor worse: "
                "name a task that has right answers"
            )


def _check_precision(recipe: Recipe) -> None:
    if recipe.train.precision == "bfloat16" and not _bfloat16_is_fast():
        warnings.warn(
            "train.precision: this CPU has no bfloat16 instructions and emulates them ten times slower than float32: "
            "set train.precision=float32",
            VlpWarning,
            stacklevel=2,
        )


def _check_weights(recipe: Recipe, towers: DualEncoder) -> None:
    """Refuse an architecture whose weights lie beside it unread, and warn of a tower that is locked at random."""
    loaded = {found.part for found in towers.loaded}
    model: Any = recipe.model
    for side, part, locked in (
        ("image", "visual.", towers.locked_image),
        ("text", "text.", towers.locked_text),
    ):
        name = getattr(getattr(model, side), "name", "")
        if part in loaded:
            continue
        if getattr(model, side).type == "open_clip" and holds_weights(name):
            raise RecipeError(
                f"model.{side}.name: '{name}' has weights, and the tower would start from random ones: set "
                f"model.{side}.weights={name} (or model.weights={name} for both towers); for the architecture alone, "
                "name its JSON file"
            )
        if locked:
            warnings.warn(
                f"model.freeze: the {side} tower is locked, and starts from random weights: give it some "
                f"(model.{side}.weights, model.{side}.pretrained or model.weights)",
                VlpWarning,
                stacklevel=3,
            )


def _bfloat16_is_fast() -> bool:
    if torch.cuda.is_available():
        return True
    abilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than our oldest torch
    return not abilities or any("bf16" in name and present for name, present in abilities.items())


def _check_batch(recipe: Recipe) -> None:
    share, left = divmod(recipe.train.batch_size, dist.world_size())
    number = recipe.train.micro_batches
    if left or (number != "auto" and share % number):
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} pairs do not divide among {dist.world_size()} processes with "
            f"train.micro_batches={number}"
        )


def _check_micro_batches(recipe: Recipe, *, sharded: bool) -> None:
    if recipe.train.micro_batches == "auto" and sharded:
        raise RecipeError(
            "train.micro_batches: auto repeats a step where memory runs out on one process, and processes with sharded "
            "parameters cannot: set a number (vlp plan --sharded tells which)"
        )


def _check_batch_norm(recipe: Recipe, towers: DualEncoder) -> None:
    if towers.has_batch_norm and recipe.train.micro_batches != 1:
        raise RecipeError(
            "model.image: batch norm mixes the samples of one pass, so micro-batches would change the result: set "
            "train.micro_batches=1, use a tower with layer or group norm, or lock the image tower"
        )


def _check_optimizer(recipe: Recipe, towers: DualEncoder) -> None:
    kind = optimizers[recipe.optimizer.type]
    shapes = kind.schedule_shapes
    if shapes and recipe.schedule.shape not in shapes:
        raise RecipeError(
            f"optimizer.type: {recipe.optimizer.type} has no schedule but its warm-up: set schedule.shape={shapes[0]}"
        )
    if towers.has_batch_norm and not kind.batch_norm:
        raise RecipeError(
            f"optimizer.type: {recipe.optimizer.type} evaluates averaged weights, of which batch norm has no "
            "statistics: use a tower with layer or group norm, lock the image tower, or take optimizer.type=adamw"
        )


def _check_providers(recipe: Recipe, used: Mapping[str, Strategy]) -> None:
    made = recipe.data.captions.negatives is not None
    if made and not any(isinstance(strategy, HardNegatives) for strategy in used.values()):
        raise RecipeError(
            "data.captions.negatives: nothing takes the wrong captions, which would count as right ones: add "
            "strategies.hard_negatives={}"
        )
    for need in ("negatives", "teacher"):
        providers = [label for label, strategy in used.items() if need in strategy.provides]
        if len(providers) > 1:
            raise RecipeError(f"strategies: {' and '.join(providers)} both provide {NEEDS[need]}: leave one out")
    if not made and any(isinstance(strategy, HardNegatives) for strategy in used.values()):
        raise RecipeError("strategies.hard_negatives: there are none: set data.captions.negatives={count: 1}")


def _check_views(recipe: Recipe, objective: Objective, used: Mapping[str, Strategy]) -> None:
    makers = [f"data.{key}" for key in ("views", "text_views") if getattr(recipe.data, key)]
    makers += [f"strategies.{label}" for label, strategy in used.items() if strategy.makes_views]
    if recipe.data.spare_first_view and makers in ([], ["data.text_views"]):
        raise RecipeError(
            "data.spare_first_view: there is no other image view to change: set data.views, or leave it out"
        )
    if makers and not any(cast(Term, term).reads_views for term in objective.terms.values()):
        readers = ", ".join(name for name in terms if terms[name].reads_views)
        raise RecipeError(
            f"{makers[0]}: no term of {', '.join(objective.terms)} reads further views, so they would cost time for "
            f"nothing: add one of {readers}, or leave the views out"
        )


def _check_contrast(objective: Objective) -> None:
    if not any(cast(Term, term).discriminates for term in objective.terms.values()):
        warnings.warn(
            f"objective: no term of {', '.join(objective.terms)} compares images with the texts of other pairs, so "
            "retrieval and zero-shot classification are not trained: add one such as clip",
            VlpWarning,
            stacklevel=3,
        )


def _check_term(label: str, term: Term, provided: set[str], *, learns_scale: bool) -> None:
    for need, way_out in PROVIDERS.items():
        if need in term.needs - provided:
            raise RecipeError(f"objective.{label}: needs {NEEDS[need]}: {way_out}")
    if term.fixed_scale_advised and learns_scale:
        warnings.warn(
            f"objective.{label}: under this term a learnable scale runs to model.max_scale; consider "
            "model.learn_scale=false with a fixed model.init_scale",
            VlpWarning,
            stacklevel=4,
        )
