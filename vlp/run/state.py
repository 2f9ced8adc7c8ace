"""The state of a run as a checkpoint has it, whatever the layout of processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.recipe.layers import DEFAULT_TYPES, LENGTHS
from vlp.recipe.schema import Recipe
from vlp.run import checkpoint
from vlp.run.assemble import SCALED, Run
from vlp.run.checkpoint import Checkpoint

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
Thing = TypeVar("Thing")


def restore(run: Run) -> tuple[int, int]:
    """Load the newest whole checkpoint of the run, the same one everywhere; return (steps done, samples consumed).

    The run folder is written to once the state fits the recipe, and not before.

    Raises:
        RecipeError: Another process trains in the folder, no checkpoint is whole, or its state does not fit the recipe.
    """
    dist.on_main(run.claim.hold)
    found = dist.on_main(lambda: checkpoint.latest(run.recipe.folder))
    if found is not None:
        with dist.together():
            _check_copy(found)
            run.stream.check_position(found.position)
        _load(run, found)
    run.scores.recall(run.recipe.folder, 0 if found is None else found.step)
    dist.on_main(run.claim.confirm)
    if found is None:
        return 0, 0
    if found.step >= run.num_steps and dist.is_main():
        more = f"a larger train.{_length(run.recipe)} and --allow-changes go on"
        print(f"{run.recipe.folder}: trained to its last step, {found.step}, already; {more}", file=sys.stderr)
    return found.step, found.position


def _length(recipe: Recipe) -> str:
    return next(key for key in LENGTHS if getattr(recipe.train, key) is not None)


def weights_to_evaluate(run: Run) -> dict[str, Tensor]:
    """Return the weights that the recipe evaluates, whole, on the CPU."""
    label = run.recipe.evaluation.weights
    averages = run.strategies[label].weights() if label in run.strategies else None
    return full(averages if averages is not None else run.towers.state_dict() | run.averages())


def full(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather sharded tensors and bring everything to the CPU."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
        for name, value in weights.items()
    }


def _check_copy(found: Checkpoint) -> None:
    """See that this process reads the files that the first one has read, in case they lie on different disks.

    Raises:
        RecipeError: It does not.
    """
    if dist.is_main():
        return
    if checkpoint.open_checkpoint(found.path) != found:
        raise RecipeError(f"{found.path}: differs from that of process 0; all must see the same run folder")


def _load(run: Run, found: Checkpoint) -> None:
    """Load part after part; where one does not fit, memory is of no more use, and the disk is as it was."""
    weights = _on_all(found.weights)
    _check_names("model", weights, run.towers.state_dict(), found)
    set_model_state_dict(run.model, dict(weights), options=FULL)
    training = _on_all(found.training)
    _load_optimizer(run, training, found)
    for label in run.strategies:
        _load_strategy(run, label, training["strategies"].get(label), found)
    _load_objective(run, training, found)
    _load_guard(run, training["safe_step"], training.get("precision"))
    if dist.is_main():
        for source, reason, count in training["faults"]["counts"]:
            run.stream.faults.counts[source, reason] = count
        run.stream.faults.delivered = training["faults"]["delivered"]


def _load_optimizer(run: Run, training: Mapping[str, Any], found: Checkpoint) -> None:
    before, now = training.get("optimizer_type", DEFAULT_TYPES["optimizer"]), run.recipe.optimizer.type
    if before != now:
        raise RecipeError(_differs("optimizer.type", found, f"it is of {before}, not {now}"))
    if run.pull is not None and training.get("pull") is None:
        raise RecipeError(_lacks("optimizer.decay_towards", found))
    for key, optimizer in (("optimizer", run.optimizer), ("pull", run.pull)):
        if optimizer is not None:
            load = partial(set_optimizer_state_dict, run.model, optimizer, training[key], options=FULL)
            with _fits("optimizer", found):
                _keeping_settings(optimizer, load, counters=run.kind.counters)
            if run.kind.counters and not _same_groups(run, training[key], optimizer):
                raise RecipeError(_differs(key, found, "parameters are in other groups, and each counts for itself"))
    parameters = dict(run.towers.named_parameters())
    _copy(training.get("trained", {}), {name: parameters[name].detach() for name in training.get("trained", {})})


def _same_groups(run: Run, saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    names = {id(parameter): name for name, parameter in run.towers.named_parameters()}
    now = [{names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]
    return sorted(map(sorted, now)) == sorted(sorted(group["params"]) for group in saved["param_groups"])


def _load_strategy(run: Run, label: str, saved: Mapping[str, Tensor] | None, found: Checkpoint) -> None:
    key, strategy = f"strategies.{label}", run.strategies[label]
    averages = strategy.weights()
    if saved is None or saved.keys() != strategy.state_dict().keys() or (averages and label not in found.labels()):
        raise RecipeError(_lacks(key, found))
    with _fits(key, found):
        strategy.load_state_dict(dict(saved))
    if averages is not None:
        weights = _on_all(lambda: found.weights(label))
        _check_names(key, weights, averages, found)
        _copy(weights, averages)


def _load_objective(run: Run, training: Mapping[str, Any], found: Checkpoint) -> None:
    known = run.objective.state_dict()
    saved = named_as_now(known, training["objective"])
    for name in known:
        if name not in saved:
            kind, label, *_ = name.split(".")
            raise RecipeError(_lacks(f"{'heads' if kind == 'heads' else 'objective'}.{label}", found))
    with _fits("objective", found):
        run.objective.load_state_dict({name: saved[name] for name in known})
        optimizer = run.term_optimizer
        if optimizer is not None:
            load = partial(optimizer.load_state_dict, training["term_optimizer"])
            _keeping_settings(optimizer, load, counters=run.kind.counters)
    run.objective.expect(run.stream.num_samples)  # there may be more of them than when the state was saved


def named_as_now(known: Iterable[str], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what terms saved, by its names of now: the prototypes of `self_distillation` had no room of their own."""
    before = {name: name.replace(".prototypes.", ".", 1) for name in known if name not in saved}
    return {**saved, **{name: saved[older] for name, older in before.items() if older in saved}}


def _load_guard(run: Run, saved: Mapping[str, Tensor], precision: str | None) -> None:
    """Load what was counted, and the scale of the loss where there was one and is one: precisions may have changed.

    Args:
        precision: That of the saved steps; None in older checkpoints, of which 1 is the scale of a loss without one.
    """
    was_scaled = float(saved["loss_scale"]) != 1 if precision is None else precision == SCALED
    for name, value in saved.items():
        if name != "loss_scale" or (was_scaled and run.safe_step.scales):
            run.safe_step.state[name].copy_(value)


def _keeping_settings(optimizer: torch.optim.Optimizer, load: Callable[[], None], *, counters: Sequence[str]) -> None:
    """Load moments and counters; rates and decays stay those of the recipe, in which they may have changed."""
    loaded = ("params", *counters)
    settings = [{key: value for key, value in group.items() if key not in loaded} for group in optimizer.param_groups]
    load()
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def _on_all(read: Callable[[], Thing]) -> Thing:
    """Read something on every process, or fail on every process with the words of the one that cannot."""
    with dist.together():
        return read()


def _check_names(key: str, saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor], found: Checkpoint) -> None:
    odd = sorted(saved.keys() ^ wanted.keys()) or [
        name for name, value in wanted.items() if saved[name].shape != value.shape
    ]
    if odd:
        raise RecipeError(_differs(key, found, f"{len(odd)} weights differ: {', '.join(odd[:3])}"))


@contextmanager
def _fits(key: str, found: Checkpoint) -> Iterator[None]:
    """Name the key of a part that does not take its state back."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RecipeError(_differs(key, found, f"{type(error).__name__}: {error}")) from error


def _lacks(key: str, found: Checkpoint) -> str:
    return (
        f"{key}: the checkpoint of step {found.step} has no state of it; take it out to continue the run, "
        "or start a new one (name=...)"
    )


def _differs(key: str, found: Checkpoint, how: str) -> str:
    return (
        f"{key}: the checkpoint of step {found.step} does not fit ({how}); take the change back to continue the run, "
        "or start a new one (name=...)"
    )


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into possibly sharded ones."""
    for name, value in target.items():
        whole = source[name].to(value.device)
        if isinstance(value, DTensor):
            whole = distribute_tensor(whole, value.device_mesh, value.placements)
        value.copy_(whole)
