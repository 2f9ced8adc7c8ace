"""What does not fit together in a recipe, said before the first step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch

from vlp.data.pixels.policies import policies
from vlp.evaluators.base import load_task
from vlp.evaluators.comparison.task_scores import sign_of
from vlp.evaluators.variants import name_in_records
from vlp.ground import dist
from vlp.ground.types import RecipeError, VlpWarning
from vlp.objectives.base import Objective, Term, terms
from vlp.objectives.needs import NEEDS, PROVIDERS
from vlp.recipe.schema import Recipe
from vlp.run.adversary_fit import check_adversaries
from vlp.run.compile_fit import check_compiled
from vlp.run.document_fit import check_documents_are_read
from vlp.run.native_fit import check_native
from vlp.run.region_fit import check_regions_are_read
from vlp.step.optimizers.base import optimizers
from vlp.strategies.base import Strategy
from vlp.strategies.dual_teacher import DualTeacher
from vlp.strategies.hard_negatives import HardNegatives
from vlp.strategies.image_views import ImageViews
from vlp.strategies.replay import Replay
from vlp.strategies.style_views import StyleViews
from vlp.towers.dual import DualEncoder
from vlp.towers.locating_decoder import LocatingDecoder
from vlp.towers.pixel_autoencoder import purifier_of
from vlp.towers.sources import holds_weights
from vlp.towers.token_table import token_table


def check_fit(
    recipe: Recipe, towers: DualEncoder, objective: Objective, used: Mapping[str, Strategy], *, sharded: bool
) -> None:
    """Refuse combinations that would be wrong, and warn of those that rarely do any good.

    Raises:
        RecipeError: Names the keys and a way out.
    """
    _check_precision(recipe)
    _check_weights(recipe, towers)
    _check_new_tokens(towers)
    _check_batch(recipe)
    _check_micro_batches(recipe, sharded=sharded)
    _check_batch_norm(recipe, towers)
    check_compiled(recipe, objective, sharded=sharded)
    _check_optimizer(recipe, towers)
    provided = {"reference"} if towers.locked_image else set()
    provided |= {"caption_losses"} if towers.decoder is not None else set()
    provided |= {"pixel_changes"} if purifier_of(towers.core.visual) is not None else set()
    provided |= {"region_losses"} if recipe.data.regions and isinstance(towers.decoder, LocatingDecoder) else set()
    _check_decoder(towers, objective)
    check_regions_are_read(recipe.data, objective)
    check_documents_are_read(recipe.data, towers, used)
    check_native(recipe.data, towers, used)
    check_adversaries(used)
    for label, strategy in used.items():
        provided |= strategy.provides
        if sharded and not strategy.can_shard:
            raise RecipeError(f"strategies.{label}: cannot work on sharded parameters: train with DDP")
    _check_providers(recipe, objective, used)
    _check_views(recipe, objective, used)
    _check_features(recipe, objective)
    _check_compared_views(recipe, towers, objective, used)
    _check_maps(recipe, objective)
    _check_evaluated_heads(recipe, objective)
    _check_replay(recipe, used)
    _check_contrast(objective)
    for label, module in objective.terms.items():
        _check_term(label, cast(Term, module), provided, learns_scale=recipe.model.learn_scale)
        _check_pairs(recipe, label, cast(Term, module))
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
    loaded = {found.part: found for found in towers.loaded}
    model: Any = recipe.model
    for side, part, locked in (
        ("image", "visual.", towers.locked_image),
        ("text", "text.", towers.locked_text),
    ):
        name, found = getattr(getattr(model, side), "name", ""), loaded.get(part)
        if found is None and getattr(model, side).type == "open_clip" and holds_weights(name):
            raise RecipeError(
                f"model.{side}.name: '{name}' has weights, and the tower would start from random ones: set "
                f"model.{side}.weights={name} (or model.weights={name} for both towers); for the architecture alone, "
                "name its JSON file"
            )
        if locked and (found is None or found.found < found.of):
            some = f"give it some (model.{side}.weights, model.{side}.pretrained or model.weights)"
            random = (
                "starts from random weights" if found is None else f"{found.of - found.found} of its tensors are random"
            )
            ways = some if found is None else "keep its own width (model.embed_dim), or let its projection train"
            warnings.warn(f"model.freeze: the {side} tower is locked, and {random}: {ways}", VlpWarning, stacklevel=3)


def _check_new_tokens(towers: DualEncoder) -> None:
    """Warn of words that learn nothing."""
    if towers.new_tokens is not None and not token_table(towers.core.text).weight.requires_grad:
        warnings.warn(
            "model.text.new_tokens: embeddings of tokens are locked, so that new ones stay the mean of their pieces: "
            "train them (model.tune=full, or lit), or leave new_tokens out",
            VlpWarning,
            stacklevel=3,
        )


def _bfloat16_is_fast() -> bool:
    if torch.cuda.is_available():
        return True
    abilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than our oldest torch
    return not abilities or any("bf16" in name and present for name, present in abilities.items())


def _check_batch(recipe: Recipe) -> None:
    *first, _last = recipe.train.batch_sizes.sizes
    for size in first:
        if size % dist.world_size():
            raise RecipeError(f"train.first_batches: {size} pairs do not divide among {dist.world_size()} processes")
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
    if towers.has_batch_norm and recipe.train.micro_batches not in (1, "auto"):
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


def _check_providers(recipe: Recipe, objective: Objective, used: Mapping[str, Strategy]) -> None:
    for label, strategy in used.items():
        if "hidden_patches" in strategy.provides and not strategy.provides & objective.needs:
            raise RecipeError(
                f"strategies.{label}: no term learns from it: add objective.self_distillation={{}} or "
                "objective.masked_prediction={}, or leave it out"
            )
    made = recipe.data.captions.negatives is not None
    if made and not any(isinstance(strategy, HardNegatives) for strategy in used.values()):
        raise RecipeError(
            "data.captions.negatives: nothing takes the wrong captions, which would count as right ones: add "
            "strategies.hard_negatives={}"
        )
    for need in ("negatives", "teacher", "hidden_patches"):
        providers = [label for label, strategy in used.items() if need in strategy.provides]
        if len(providers) > 1:
            raise RecipeError(f"strategies: {' and '.join(providers)} both provide {NEEDS[need]}: leave one out")
    if not any("negatives" in strategy.provides for strategy in used.values()):
        for label, strategy in used.items():
            if isinstance(strategy, DualTeacher) and strategy.negatives:
                raise RecipeError(f"strategies.{label}.negatives: there are none: {PROVIDERS['negatives']}")
    if not made and any(isinstance(strategy, HardNegatives) for strategy in used.values()):
        raise RecipeError("strategies.hard_negatives: there are none: set data.captions.negatives={count: 1}")


def _check_views(recipe: Recipe, objective: Objective, used: Mapping[str, Strategy]) -> None:
    takers = [label for label, strategy in used.items() if strategy.takes_text_views]
    if takers and not recipe.data.text_views:
        raise RecipeError(
            f"strategies.{takers[0]}: there is nothing to choose from: set data.text_views={{synonyms: {{count: 4, "
            "synonyms: 1.0}}"
        )
    makers = ["data.views"] if recipe.data.views else []
    makers += ["data.text_views"] if recipe.data.text_views and not takers else []
    makers += [f"strategies.{label}" for label, strategy in used.items() if strategy.makes_views]
    if recipe.data.spare_first_view and makers in ([], ["data.text_views"]):
        raise RecipeError(
            "data.spare_first_view: there is no other image view to change: set data.views, or leave it out"
        )
    if makers and not objective.reads_views:
        readers = ", ".join(name for name in terms if terms[name].reads_views)
        raise RecipeError(
            f"{makers[0]}: no term of {', '.join(objective.terms)} reads further views, so they would cost time for "
            f"nothing: add one of {readers}, or leave the views out"
        )
    for label, head in recipe.heads.items():
        if head.views == "further" and not makers:
            raise RecipeError(
                f"heads.{label}.views: there are no further views: set data.views, data.text_views or "
                "strategies.image_views, or views: all"
            )


def _check_replay(recipe: Recipe, used: Mapping[str, Strategy]) -> None:
    known = recipe.data.train
    for label, strategy in used.items():
        for source in strategy.sources if isinstance(strategy, Replay) else ():
            if source not in known:
                raise RecipeError(
                    f"strategies.{label}.sources: '{source}' is no label of data.train (known: {', '.join(known)})"
                )


def _check_evaluated_heads(recipe: Recipe, objective: Objective) -> None:
    for name in recipe.evaluation.heads:
        try:
            objective.head(name)
        except RecipeError as error:
            raise RecipeError(f"evaluation.heads: {error}") from error


def _check_features(recipe: Recipe, objective: Objective) -> None:
    """Refuse what leaves the towers without features before their projections."""
    if "features" not in objective.needs:
        return
    label = next((label for label, head in recipe.heads.items() if head.reads == "features"), "")
    if recipe.train.keep_locked:
        raise RecipeError(
            f"train.keep_locked: heads.{label} reads features that it would hide: set reads: embeddings, or "
            "train.keep_locked=false"
        )


def _check_compared_views(
    recipe: Recipe, towers: DualEncoder, objective: Objective, used: Mapping[str, Strategy]
) -> None:
    """Refuse terms that compare views of an image where there are none, or where no image tower learns of it."""
    label = next((label for label, term in objective.terms.items() if cast(Term, term).compares_views), None)
    if label is None:
        return
    if towers.locked_image:
        raise RecipeError(
            f"model.freeze: objective.{label} compares views of images, which trains the image tower, and it is "
            "locked: train some of it (model.tune=prompts: image above 0), or leave the term out"
        )
    if not recipe.data.views and not any(isinstance(strategy, ImageViews | StyleViews) for strategy in used.values()):
        raise RecipeError(
            f"objective.{label}: compares two views of an image, and there is one: set data.views={{second: {{scale: "
            "[0.2, 1.0]}}"
        )


def _check_maps(recipe: Recipe, objective: Objective) -> None:
    """Refuse what leaves nobody knowing which place of one view is which of the other."""
    label = next((label for label, term in objective.terms.items() if "maps" in cast(Term, term).needs), None)
    if label is None:
        return
    if "features" in objective.needs:
        raise RecipeError(f"objective.{label}: no head can read features beside maps: set its reads to embeddings")
    label = next((label for label, term in objective.terms.items() if "taught_maps" in cast(Term, term).needs), None)
    if label is None:
        return
    data = recipe.data
    if data.augment.affine:
        raise RecipeError(
            f"data.augment.affine: turns and moves images behind their crops, so that objective.{label} would compare "
            "other places than it thinks: set it to 0; crops of data.views move them as well"
        )
    if data.policy is not None and policies[data.policy.type].moves_pixels:
        raise RecipeError(
            f"data.policy: {data.policy.type} moves pixels, so that objective.{label} would compare other places than "
            "it thinks: leave it out; data.augment changes colours"
        )


def _check_contrast(objective: Objective) -> None:
    if not any(cast(Term, term).discriminates for term in objective.terms.values()):
        warnings.warn(
            f"objective: no term of {', '.join(objective.terms)} compares images with the texts of other pairs, so "
            "retrieval and zero-shot classification are not trained: add one such as clip",
            VlpWarning,
            stacklevel=3,
        )


def _check_pairs(recipe: Recipe, label: str, term: Term) -> None:
    fewest = min(recipe.train.batch_sizes.sizes)
    if fewest < term.min_pairs:
        key = "batch_size" if fewest == recipe.train.batch_size else "first_batches"
        raise RecipeError(f"train.{key}: objective.{label} needs batches of {term.min_pairs} pairs, and gets {fewest}")


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
