"""The state of a run on its way to the disk and back, whatever the layout of processes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from vlp import checkpoint, dist
from vlp.assemble import Parts
from vlp.data import Faults

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def restore(parts: Parts) -> tuple[int, int]:
    """Load the newest whole checkpoint of the run; return (steps done, samples consumed)."""
    found = checkpoint.latest(parts.recipe.folder)
    if found is None:
        return 0, 0
    set_model_state_dict(parts.model, dict(found.weights()), options=FULL)
    training = found.training()
    set_optimizer_state_dict(parts.model, parts.optimizer, training["optimizer"], options=FULL)
    if parts.term_optimizer is not None:
        parts.term_optimizer.load_state_dict(training["term_optimizer"])
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
    weights: dict[str, Any] = {checkpoint.MODEL: get_model_state_dict(parts.model, options=FULL)}
    for label, strategy in parts.strategies.items():
        averages = strategy.weights()
        if averages is not None:
            weights[label] = full(averages)
    training = {
        "optimizer": get_optimizer_state_dict(parts.model, parts.optimizer, options=FULL),
        "term_optimizer": None if parts.term_optimizer is None else parts.term_optimizer.state_dict(),
        "strategies": {label: strategy.state_dict() for label, strategy in parts.strategies.items()},
        "objective": parts.objective.state_dict(),
        "safe_step": parts.safe_step.state,
        "faults": Faults.together(dist.gather_objects(parts.stream.faults)).state_dict(),
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
