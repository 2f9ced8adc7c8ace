"""From a recipe to the parts of a run, ready for the first step or for the one after a checkpoint."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from vlp import checkpoint, dist
from vlp.config import Recipe, build_model, differences, load_card, load_task, lock_text, settings
from vlp.data import Augment, Captions, Crop, Faults, SampleSet, Stream
from vlp.log import Log
from vlp.objectives.base import Objective, Term, terms
from vlp.objectives.schedule import Schedule
from vlp.optim import SafeStep, build_optimizer, learning_rate_factor
from vlp.provenance import commit, versions
from vlp.strategies.base import Strategy, strategies
from vlp.towers.dual import DualEncoder
from vlp.types import RecipeError
from vlp.yaml import write_yaml

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
FIRST_LOSS_SCALE = 65536.0


@dataclass
class Parts:
    """All that a run works with.

    Args:
        model: The dual encoder as the accelerator wrapped it; the training step calls this one.
        towers: The dual encoder itself.
        rate: Factor of the learning rate at a step.
    """

    recipe: Recipe
    accelerator: Accelerator
    stream: Stream
    augment: Augment
    model: nn.Module
    towers: DualEncoder
    objective: Objective
    strategies: dict[str, Strategy]
    optimizer: torch.optim.Optimizer
    safe_step: SafeStep
    rate: Callable[[int], float]
    num_steps: int

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """Trained parameters by tower."""
        image = list(self.towers.core.visual.parameters())
        text = list(self.towers.core.text.parameters())
        known = {id(parameter) for parameter in (*image, *text)}
        rest = [parameter for parameter in self.towers.parameters() if id(parameter) not in known]
        sets = {"image": image, "text": text, "scale": rest}
        return {name: [p for p in values if p.requires_grad] for name, values in sets.items()}

    def open_log(self, first_step: int) -> Log:
        """Open the progress line, `metrics.jsonl` and the trackers."""
        return Log(
            self.recipe.folder / "metrics.jsonl",
            num_steps=self.num_steps,
            first_step=first_step,
            is_main=dist.is_main(),
            track=_start_trackers(self.accelerator, self.recipe),
        )


def assemble(recipe: Recipe, *, resume: bool, allow_changes: bool) -> Parts:
    """Build everything that a recipe names, and check that it fits together.

    Raises:
        RecipeError: A combination that cannot work; names the keys and a way out.
    """
    accelerator = _start_processes(recipe)
    towers = build_model(recipe.model)
    objective = _build_objective(recipe)
    used = {label: strategies.build(entry.type, settings(entry, "type")) for label, entry in recipe.strategies.items()}
    sharded = accelerator.distributed_type == DistributedType.FSDP
    _check(recipe, towers, objective, used, sharded=sharded)
    stream = _build_stream(recipe, towers, accelerator.device)
    num_steps = count_steps(recipe, stream.num_samples)
    _claim_folder(recipe, resume=resume, allow_changes=allow_changes)
    towers.train()
    optimizer = build_optimizer(towers, **settings(recipe.optimizer))
    model, optimizer = _prepare(accelerator, towers, optimizer)
    if recipe.train.compile:
        towers.core.visual.compile()
        towers.core.text.compile()
    for strategy in used.values():
        strategy.start(towers)
    return Parts(
        recipe=recipe,
        accelerator=accelerator,
        stream=stream,
        augment=Augment(towers.preprocess_cfg["mean"], towers.preprocess_cfg["std"], **settings(recipe.data.augment)),
        model=model,
        towers=towers,
        objective=objective.to(accelerator.device),
        strategies=used,
        optimizer=optimizer,
        safe_step=SafeStep(
            optimizer,
            max_norm=recipe.train.clip_gradient_norm,
            loss_scale=FIRST_LOSS_SCALE if recipe.train.precision == "float16" else 1.0,
            device=str(accelerator.device),
        ),
        rate=learning_rate_factor(num_steps, **settings(recipe.schedule)),
        num_steps=num_steps,
    )


def count_steps(recipe: Recipe, epoch_size: int) -> int:
    """Return the length of the training in steps."""
    length = recipe.train
    if length.steps is not None:
        return length.steps
    samples = length.samples if length.samples is not None else (length.epochs or 0) * epoch_size
    return max(1, math.ceil(samples / length.batch_size))


def restore(parts: Parts) -> tuple[int, int]:
    """Load the newest whole checkpoint of the run; return (steps done, samples consumed)."""
    found = checkpoint.latest(parts.recipe.folder)
    if found is None:
        return 0, 0
    set_model_state_dict(parts.model, found.weights(), options=FULL)
    training = found.training()
    set_optimizer_state_dict(parts.model, parts.optimizer, training["optimizer"], options=FULL)
    for label, strategy in parts.strategies.items():
        strategy.load_state_dict(training["strategies"][label])
        averages = strategy.weights()
        if averages is not None:
            _copy(found.weights(label), averages)
    parts.objective.load_state_dict(training["objective"])
    for name, value in training["safe_step"].items():
        parts.safe_step.state[name].copy_(value)
    if dist.is_main():
        for source, reason, count in training["faults"]["counts"]:
            parts.stream.faults.counts[source, reason] = count
        parts.stream.faults.delivered = training["faults"]["delivered"]
    return found.step, found.position


def save(parts: Parts, *, step: int, position: int) -> None:
    """Write a checkpoint; every process takes part, the first one writes."""
    weights = {checkpoint.MODEL: get_model_state_dict(parts.model, options=FULL)}
    for label, strategy in parts.strategies.items():
        averages = strategy.weights()
        if averages is not None:
            weights[label] = full(averages)
    faults = Faults.together(dist.gather_objects(parts.stream.faults))
    training = {
        "optimizer": get_optimizer_state_dict(parts.model, parts.optimizer, options=FULL),
        "strategies": {label: strategy.state_dict() for label, strategy in parts.strategies.items()},
        "objective": parts.objective.state_dict(),
        "safe_step": parts.safe_step.state,
        "faults": {"counts": [[*key, count] for key, count in faults.counts.items()], "delivered": faults.delivered},
    }
    if dist.is_main():
        checkpoint.save(
            parts.recipe.folder,
            step=step,
            position=position,
            weights=weights,
            training=training,
            keep=parts.recipe.checkpoint.keep,
        )
    dist.barrier()


def weights_to_evaluate(parts: Parts) -> dict[str, Tensor]:
    """Return the weights that the recipe evaluates, whole, on the CPU."""
    label = parts.recipe.evaluation.weights
    averages = parts.strategies[label].weights() if label in parts.strategies else None
    return full(averages if averages is not None else parts.towers.state_dict())


def full(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gather sharded tensors and bring everything to the CPU."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
        for name, value in weights.items()
    }


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Copy whole tensors into possibly sharded ones."""
    for name, value in target.items():
        whole = source[name].to(value.device)
        if isinstance(value, DTensor):
            whole = distribute_tensor(whole, value.device_mesh, value.placements)
        value.copy_(whole)


def _start_processes(recipe: Recipe) -> Accelerator:
    """Start the accelerator; threads, seeds and determinism are set here and nowhere else."""
    accelerator = Accelerator(
        mixed_precision="no",  # autocast is opened around the towers by the training step
        log_with=list(recipe.log.trackers) or None,
        project_dir=str(recipe.folder),
    )
    if accelerator.device.type == "cpu":
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        torch.set_num_threads(recipe.train.threads or max(1, (os.cpu_count() or 1) // local_processes))
    if recipe.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    torch.manual_seed(recipe.seed)
    return accelerator


def _prepare(
    accelerator: Accelerator, towers: DualEncoder, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Let the accelerator place and wrap model and optimizer; unwrap the optimizer, whose step is ours."""
    model, wrapped = accelerator.prepare(towers, optimizer)
    return model, wrapped.optimizer


def _build_objective(recipe: Recipe) -> Objective:
    parts: dict[str, tuple[Term, Schedule]] = {}
    for label, entry in recipe.objective.items():
        weight = entry.weight
        try:
            term = terms.build(entry.type, settings(entry, "type", "weight"))
            parts[label] = (term, Schedule(start=weight) if isinstance(weight, float) else Schedule(**settings(weight)))
        except ValueError as error:
            raise RecipeError(f"objective.{label}: {error}") from error
    return Objective(parts)


def _build_stream(recipe: Recipe, towers: DualEncoder, device: torch.device) -> Stream:
    data = recipe.data
    return Stream(
        SampleSet({label: load_card(source.card) for label, source in data.train.items()}),
        Crop(towers.image_size, **settings(data.crop)),
        Captions(**settings(data.captions)),
        towers.tokenizer,
        batch_size=recipe.train.batch_size,
        seed=recipe.seed,
        rank=dist.rank(),
        world_size=dist.world_size(),
        workers=data.workers,
        bad_sample_budget=data.bad_sample_budget,
        pin_memory=device.type == "cuda",
        quarantine=recipe.folder / "quarantine.jsonl",
    )


def _check(
    recipe: Recipe, towers: DualEncoder, objective: Objective, used: dict[str, Strategy], *, sharded: bool
) -> None:
    """Refuse combinations that would be wrong or without effect."""
    share, left = divmod(recipe.train.batch_size, dist.world_size())
    if left or share % recipe.train.micro_batches:
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} pairs do not divide among {dist.world_size()} processes with "
            f"train.micro_batches={recipe.train.micro_batches}"
        )
    provided = frozenset().union(*(strategy.provides for strategy in used.values()))
    if towers.locked_image:
        provided |= {"reference"}
    for label, term in objective.terms.items():
        if "reference" in term.needs - provided:
            raise RecipeError(
                f"objective.{label}: needs reference features: lock the image tower (model.freeze=[visual]) or "
                "add a teacher (strategies.ema_teacher={})"
            )
    if towers.has_batch_norm and (recipe.train.micro_batches > 1 or dist.world_size() > 1):
        raise RecipeError(
            "model.image: batch norm mixes the samples of one pass, so micro-batches or several processes would "
            "change the result: use a tower with layer or group norm, or lock the image tower"
        )
        if term.fixed_scale_advised and recipe.model.learn_scale:  # type: ignore[attr-defined]  # made from signatures
            warnings.warn(
                f"objective.{label}: under this term a learnable scale runs to model.max_scale; consider "
                "model.learn_scale=false with a fixed model.init_scale",
                RuntimeWarning,
                stacklevel=2,
            )
    for label, strategy in used.items():
        if sharded and not strategy.can_shard:
            raise RecipeError(f"strategies.{label}: cannot work on sharded parameters: train with DDP")
    for name in recipe.evaluation.tasks:
        load_task(name)


def _claim_folder(recipe: Recipe, *, resume: bool, allow_changes: bool) -> None:
    """Create the run folder with its lock, or check that the run in it is the same one."""
    error = None
    if dist.is_main():
        try:
            _claim(recipe, resume=resume, allow_changes=allow_changes)
        except (RecipeError, OSError) as caught:
            error = caught
    error = dist.broadcast_object(error)
    if error is not None:
        raise error


def _claim(recipe: Recipe, *, resume: bool, allow_changes: bool) -> None:
    lock = recipe.folder / checkpoint.LOCK
    if lock.exists():
        if not resume:
            raise RecipeError(f"{recipe.folder}: holds a run already: continue it with --resume, or set name=...")
        changed = differences(checkpoint.read_lock(recipe.folder), recipe)
        if changed and not allow_changes:
            raise RecipeError(
                f"{recipe.folder}: the recipe changed since the run started:\n  "
                + "\n  ".join(changed)
                + "\ntake the changes back, or accept them with --allow-changes"
            )
        if not changed:
            return
    recipe.folder.mkdir(parents=True, exist_ok=True)
    provenance = {"provenance": {"commit": commit(), "versions": versions(), "data": _checksums(recipe)}}
    lock.write_text(lock_text(recipe) + write_yaml(provenance), encoding="utf-8")


def _checksums(recipe: Recipe) -> dict[str, Any]:
    return {label: load_card(source.card).fingerprint for label, source in recipe.data.train.items()}


def _start_trackers(accelerator: Accelerator, recipe: Recipe) -> Callable[[dict[str, float], int], None] | None:
    if not recipe.log.trackers:
        return None
    accelerator.init_trackers(recipe.log.project, config={"name": recipe.name, "seed": recipe.seed})

    def track(metrics: dict[str, float], step: int) -> None:
        accelerator.log(metrics, step=step)

    return track
