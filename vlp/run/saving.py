"""The state of a run on its way to the disk: gathered, or each process its own part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict
from torch.distributed.fsdp import FSDPModule

from vlp.data import Faults
from vlp.ground import dist
from vlp.ground.pieces import split
from vlp.ground.types import RecipeError
from vlp.run import checkpoint, shards
from vlp.run.assemble import Run
from vlp.run.background_writer import copied
from vlp.run.state import FULL, full

IN_PLACE = StateDictOptions()  # the tensors themselves, where they are


def save(run: Run, *, step: int, position: int, background: bool = False) -> None:
    """Write a checkpoint unless that of this step is there; every process takes part, the first one writes, or all do.

    Args:
        background: Come back once the state is copied. Where it cannot be written, the next call warns.

    Raises:
        RecipeError: It cannot be written; on every process, whatever went wrong on which one.
    """
    try:
        with dist.together():
            run.writer.settle()
        if not dist.on_main(lambda: _is_saved(run, step)):
            run.kept.save()
            in_parts = run.recipe.checkpoint.sharded and isinstance(run.model, FSDPModule)
            (_save_parts if in_parts else _save_whole)(run, step, position, background)
    except Exception as error:
        raise RecipeError(
            f"no checkpoint at step {step}: {type(error).__name__}: {error}; older ones are as they were, and --resume "
            "continues from them"
        ) from error


def _is_saved(run: Run, step: int) -> bool:
    return checkpoint.is_saved(run.recipe.folder, step, run.recipe.checkpoint.keep, run.scores.best_step())


def _save_whole(run: Run, step: int, position: int, background: bool) -> None:
    """Gather the state, and let the first process write it.

    Where the first process has all of it and writes in the background, it leaves the device in one go: torch's own
    copies go through memory that is not pinned, one after the other, and training waits for each.
    """
    faults = Faults.together(dist.gather_objects(run.stream.faults))
    at_once = background and not isinstance(run.model, FSDPModule)
    with dist.together():  # sharded tensors meet in here: when one process fails, the others wait for their time-out
        weights, training = _of_towers(run, IN_PLACE, dict) if at_once else _of_towers(run, FULL, full)
        at_home = _at_home(run, faults)
        if background and dist.is_main():
            if at_once or run.device.type == "cpu":  # from elsewhere torch has copied the others
                weights, training = copied(weights), copied(training)
            at_home = copied(at_home)
    best = run.scores.best_step()

    def write() -> None:
        run.claim.renew()
        checkpoint.save(
            run.recipe.folder,
            step=step,
            position=position,
            weights=weights,
            training=training | at_home,
            keep=run.recipe.checkpoint.keep,
            spare=best,
        )

    later = partial(run.writer.start, write, otherwise=f"no checkpoint at step {step}")
    dist.on_main(later if background else write)


def _save_parts(run: Run, step: int, position: int, background: bool) -> None:
    """Let each process write its own part of the state, and the first one what all have alike."""
    faults = Faults.together(dist.gather_objects(run.stream.faults))
    parts: dict[str, Tensor] = {}
    with dist.together():  # as above
        weights, training = _of_towers(run, IN_PLACE, dict)
        for label, values in weights.items():
            for name, value in split(values, label, parts).items():
                if isinstance(value, Tensor) and dist.is_main():
                    parts[f"{label}/{name}"] = value
        rest = split(training, checkpoint.TRAINING, parts) | _at_home(run, faults)
        own = {name: dist.own_part(value).detach() for name, value in parts.items()}
        if background:
            own, rest = copied(own), copied(rest) if dist.is_main() else {}
    best, group = run.scores.best_step(), dist.group_aside()

    def write() -> None:
        dist.on_main(run.claim.renew, group)
        shards.save(
            run.recipe.folder,
            step=step,
            position=position,
            shards=parts,
            own=own,
            training=rest,
            keep=run.recipe.checkpoint.keep,
            spare=best,
            group=group,
        )

    if background:
        run.writer.start(write, otherwise=f"no checkpoint at step {step}")
    else:
        write()


def _of_towers(
    run: Run, options: StateDictOptions, lay_out: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return weights by label, and what else is sharded where parameters are; called by all processes.

    Args:
        lay_out: What becomes of weights that torch's functions do not look after.
    """
    trained = get_model_state_dict(run.model, options=options)
    averages_of_steps = lay_out(run.averages())
    weights: dict[str, Any] = {checkpoint.MODEL: trained | averages_of_steps}
    for label, strategy in run.strategies.items():
        averages = strategy.weights()
        if averages is not None:
            weights[label] = lay_out(averages)
    return weights, {
        "optimizer_type": run.recipe.optimizer.type,
        "optimizer": get_optimizer_state_dict(run.model, run.optimizer, options=options),
        "pull": None if run.pull is None else get_optimizer_state_dict(run.model, run.pull, options=options),
        "trained": {name: value for name, value in trained.items() if name in averages_of_steps},
    }


def _at_home(run: Run, faults: Faults) -> dict[str, Any]:
    """Return what every process has alike, on whatever device it is at work."""
    return {
        "term_optimizer": None if run.term_optimizer is None else run.term_optimizer.state_dict(),
        "strategies": {label: strategy.state_dict() for label, strategy in run.strategies.items()},
        "objective": run.objective.state_dict(),
        "safe_step": run.safe_step.state,
        "precision": run.recipe.train.precision,
        "faults": faults.state_dict(),
    }
