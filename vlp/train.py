"""Read this first: one batch, from shards to a step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.data import Faults
from vlp.embeddings.mining_rounds import MiningRounds
from vlp.evaluators.base import load_task
from vlp.evaluators.record import flatten, headline
from vlp.evaluators.tasks import run_tasks
from vlp.ground import dist
from vlp.ground.errors import said_in_one_line
from vlp.ground.types import Batch, Embeddings, RecipeError
from vlp.ground.undo import Undo
from vlp.pairs import Pairs
from vlp.recipe.arguments import parse_train
from vlp.recipe.compose import load_recipe
from vlp.recipe.model import build_model, without_weights
from vlp.recipe.schema import Recipe
from vlp.run.assemble import Run, assemble
from vlp.run.clock import PREEMPTED, Clock, StopSignal, diagnose, due
from vlp.run.device_idle import watch
from vlp.run.device_memory import peak_memory
from vlp.run.folder import behind_head, evaluations_of
from vlp.run.launch import agreed_checksum, was_launched
from vlp.run.log import Log
from vlp.run.memory_parts import memory_by_part
from vlp.run.saving import save
from vlp.run.state import restore, weights_to_evaluate
from vlp.run.trained_head import HeadEncoder
from vlp.run.watchdog import Watchdog, WatchedEncoder
from vlp.step.learning_rate import set_learning_rate
from vlp.step.micro_batches import Seeds, backward
from vlp.strategies.base import all_readings
from vlp.towers.encoder import TowerEncoder


def train(recipe: Recipe, *, resume: bool = False, allow_changes: bool = False) -> Path:
    """Train a dual encoder and return its run folder.

    Args:
        recipe: What to compute.
        resume: Continue the run from its newest whole checkpoint, or start where there is none.
        allow_changes: Continue although settings differ from those the run started with.

    Raises:
        RecipeError: The recipe cannot be carried out; says what to change.
        SystemExit: With code 75 after SIGTERM, SIGINT or SIGUSR1, once the state is saved.
    """
    # ---------------------------------------- machines, data, towers, objective
    run = assemble(recipe, resume=resume, allow_changes=allow_changes)
    step, position = restore(run)
    log = run.open_log(first_step=step)
    stop = StopSignal(launched=was_launched())
    clock = Clock(step, position, watch(run.device))

    # ---------------------------------------- batch after batch
    batches, rounds = clock.waiting(run.stream.batches(position)), MiningRounds(run)
    with run.writer, Watchdog(recipe.train.timeout) as watchdog:
        if run.scores.is_due(step, run.num_steps):  # the start, or what was cut short before a resume
            evaluate(run, log, step, position, watchdog)
        while step < run.num_steps and not run.scores.verdict and not stop.anywhere():
            if rounds.is_due(step):
                batches = begin_round(run, log, clock, rounds, step, position, watchdog)
            batch = next(batches)
            has_twins = dist.any_equal(batch.ids)  # while ids are on the CPU, where nobody waits for them
            batch = run.stream.upload(batch)
            for optimizer in run.optimizers:
                set_learning_rate(optimizer, run.rate(step), step)
            report, norms = one_step(run, batch, step, has_twins=has_twins)
            clock.step_launched()
            step, position = step + 1, run.stream.after(position)
            log.step()
            watchdog.beat()

            # -------------------------------- now and then
            if due(step, recipe.log.every, run.num_steps):
                write_metrics(run, log, clock, step, position, report, norms)
            with clock.paused():
                if due(step, recipe.checkpoint.every, run.num_steps):
                    save_or_say(run, log, step, position)
                if due(step, recipe.evaluation.every, run.num_steps):
                    evaluate(run, log, step, position, watchdog)

    # ---------------------------------------- the end, or the end for now
    save(run, step=step, position=position)  # does nothing where the step was saved just now
    for line in run.scores.epilogue(recipe.folder, step, run.num_steps):
        log.say(line)
    if step < run.num_steps and not run.scores.verdict:
        log.say(f"stopped by a signal at step {step}; saved; continue with --resume")
        log.close()
        raise SystemExit(PREEMPTED)
    log.close()
    stop.restore()
    return recipe.folder


def one_step(
    run: Run, batch: Batch, step: int, *, has_twins: bool | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Take one optimizer step; return the objective's values and the gradient norm of each tower.

    Args:
        has_twins: Whether a sample stands twice in the batch of the whole job; None as for `Pairs`.
    """
    recipe = run.recipe
    run.utilisation.operations.add(batch)
    for strategy in run.strategies.values():
        strategy.before_step(step, run.objective.wanted(step))
    with autocast(run):
        for strategy in run.strategies.values():
            batch = strategy.before_forward(batch)

    def pairs_of(embeddings: Embeddings) -> Pairs:
        precision = recipe.train.number_format
        return Pairs(embeddings, batch.ids, batch.caption_ids, step=step, has_twins=has_twins, precision=precision)

    def loss_of(embeddings: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        readings = all_readings(run.strategies, embeddings)
        loss, values = run.objective.mixed(
            {label: (each.weight, pairs_of(each.embeddings)) for label, each in readings.items()}, step
        )
        report = {"loss": dist.all_reduce_sum(loss)} | {f"loss/{label}": value for label, value in values.items()}
        report |= {"scale": embeddings.scale.detach(), "bias": embeddings.bias.detach()}
        # each process holds its share of the loss, and data parallelism averages gradients: their sum is wanted
        return loss * dist.world_size() * run.safe_step.loss_scale, report

    def gradients(micro_batches: int) -> dict[str, Tensor]:
        for optimizer in run.optimizers:
            optimizer.zero_grad(set_to_none=True)
        _, report = backward(
            batch.chunk(micro_batches),
            lambda micro_batch: embed(run, micro_batch),
            loss_of,
            Seeds(recipe.seed, step, dist.rank()),
            no_sync=run.no_sync,
            together=run.micro_batches.together,
            exchange=not run.micro_batches.exchanges_alone,
        )
        return report

    buffers = Undo(run.towers)

    def settle(taken: Tensor) -> None:  # a step that is not taken leaves no trace, in weights or anywhere else
        buffers.unless(taken)
        run.objective.settle(taken)

    report = run.micro_batches(
        step, len(batch), gradients, forget=lambda: settle(torch.zeros_like(run.safe_step.taken))
    )
    if run.micro_batches.exchanges_alone:
        dist.average_gradients(run.towers.parameters())
    dist.average_gradients(run.objective.parameters())
    norms = run.safe_step(run.parameters)
    taken = run.safe_step.taken
    settle(taken)
    run.clamp()
    for strategy in run.strategies.values():
        strategy.after_step(run.towers, taken)
    return report, norms


def embed(run: Run, batch: Batch) -> Embeddings:
    """Normalise and augment on the device, run the towers and those of teachers; autocast ends with them.

    Where the recipe keeps what a locked tower says, it runs at the first sight of an image or a caption alone.
    """
    images = run.augment(batch.images, batch.draws)
    with autocast(run):
        known = run.kept.look_up(batch, run.device)
        shown = images
        for strategy in run.strategies.values():
            shown = strategy.before_towers(shown, batch)
        lengths, kept = batch.lengths.numpy(), (known.images, known.texts)
        clean = images if run.towers.hands_out_changes else None
        told = (batch.interleaved, batch.grids, batch.regions, batch.draws[0], clean)
        embeddings = run.model(shown, batch.tokens, lengths, *kept, *told)
        embeddings = run.kept.complete(batch, embeddings, known)
        for strategy in run.strategies.values():
            embeddings = strategy.after_forward(images, batch, embeddings)
    return embeddings


def autocast(run: Run) -> Any:
    """Return the number format that the recipe asks for inside the towers."""
    number_format = run.recipe.train.number_format
    return nullcontext() if number_format is None else torch.autocast(run.device.type, dtype=number_format)


def write_metrics(
    run: Run,
    log: Log,
    clock: Clock,
    step: int,
    position: int,
    report: dict[str, Tensor],
    norms: dict[str, Tensor],
) -> None:
    """Log, and stop a run that has gone wrong; here, and only here, the step waits for the device."""
    recipe, guard = run.recipe, run.safe_step.state
    faults = Faults.together(dist.gather_objects(run.stream.faults))
    metrics = {
        "samples": position,
        "epoch": position / run.stream.epoch_size,
        **run.stream.shares(position, position - clock.position),
        **{name: float(value) for name, value in report.items()},
        "learning_rate": recipe.optimizer.learning_rate * run.rate(step - 1),
        **{f"gradient_norm/{name}": float(norm) for name, norm in norms.items()},
        **{f"gauge/{name}": value for name, value in run.gauges().items()},
        **clock.lap(step, position),
        "decode_rate": run.stream.decode_rate * dist.world_size(),
        "workers": float(run.stream.workers),
        **run.micro_batches.metrics(step - 1),
        "peak_memory_gb": peak_memory(run.device) / 1e9,
        **memory_by_part(run),
        "weights_checksum": agreed_checksum(run.kept_equal),
        "skipped_steps": float(guard["skipped"]),
        "bad_samples": float(faults.total),
        **{f"retries/{source}/{trouble}": float(count) for (source, trouble), count in faults.retries.items()},
    }
    metrics |= run.utilisation.metrics(metrics["samples_per_second"] / dist.world_size())
    metrics |= run.kept.metrics() | run.graphs.metrics()
    for said in run.kept.gains(metrics):
        log.say(said)
    log.write(step, metrics)
    shown = ["loss", "scale", "gradient_norm/image", "gradient_norm/text", "samples_per_second", "data_wait"]
    shown += [name for name in ("device_idle", "mfu", "peak_memory_gb") if name in metrics and "mfu" in metrics]
    terms = [name for name in report if name.startswith("loss/")]
    terms = terms if len(terms) > 1 else []
    note = diagnose(metrics, run.stream.workers) if clock.laps > 1 else ""
    log.show({name: metrics[name] for name in (*shown[:1], *terms, *shown[1:])}, note)
    run.stream.check_budget([faults])
    if float(guard["streak"]) >= recipe.train.max_bad_steps:
        raise RecipeError(
            f"the gradient was NaN or Inf in {int(guard['streak'])} steps in a row (train.max_bad_steps): lower "
            f"optimizer.learning_rate; the last good state is under {recipe.folder / 'checkpoints'}"
        )


def save_or_say(run: Run, log: Log, step: int, position: int) -> None:
    """Write a checkpoint; where that fails, say so and go on with the older ones."""
    try:
        save(run, step=step, position=position, background=run.recipe.checkpoint.background)
    except RecipeError as error:  # on every process alike
        log.say(f"{error}; the run goes on")


def begin_round(
    run: Run, log: Log, clock: Clock, rounds: MiningRounds, step: int, position: int, watchdog: Watchdog
) -> Iterator[Batch]:
    """Mine wrong captions anew, or take up those of the round, and return the batches that have them.

    The state is saved before, as that may take long.
    """
    with clock.paused():
        if step:
            save_or_say(run, log, step, position)
        rounds.begin(step, watchdog, log.say)
    return clock.waiting(run.stream.batches(position))


def evaluate(run: Run, log: Log, step: int, position: int, watchdog: Watchdog) -> None:
    """Run the recipe's tasks on the weights that the recipe evaluates."""
    recipe = run.recipe
    if not recipe.evaluation.tasks:
        return
    model, weights = build_model(without_weights(recipe.model)), weights_to_evaluate(run)
    moved = {} if run.way is None else run.way(weights)
    model.load_state_dict(weights)
    encoder = TowerEncoder(model.to(run.device), device=run.device, autocast=recipe.train.number_format)
    tasks = [load_task(name) for name in recipe.evaluation.tasks]
    folder = evaluations_of(recipe.folder, step)
    said: dict[str, Any] = {"step": step, "weights": recipe.evaluation.weights, "preprocess": model.preprocess_cfg}
    said["moved"] = moved
    records = run_tasks(tasks, WatchedEncoder(encoder, watchdog), model=recipe.name, folder=folder, **said)
    metrics = flatten(records) | {f"moved/{tower}": share for tower, share in moved.items()}
    for name in recipe.evaluation.heads:
        behind = WatchedEncoder(HeadEncoder(encoder, run.objective.head(name)), watchdog)
        found = run_tasks(tasks, behind, model=f"{recipe.name}@{name}", folder=behind_head(folder, name), **said)
        metrics |= {key.replace("eval/", f"eval@{name}/", 1): value for key, value in flatten(found).items()}
    log.write(step, {"samples": position} | metrics)
    log.say(f"step {step}: " + "  ".join(headline(record) for record in records))
    run.scores.add(step, records)
    if step and run.scores.best_step() == step:
        save_or_say(run, log, step, position)


def train_recipe(recipe: Recipe | str, *overrides: str, resume: bool = False, allow_changes: bool = False) -> Path:
    """Train by a recipe, or by the name of one with `key=value` overrides, as `train` does."""
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    return train(resolved, resume=resume, allow_changes=allow_changes)


if __name__ == "__main__":
    with said_in_one_line():
        told = parse_train(sys.argv[1:])
        train_recipe(told.config, *told.overrides, resume=told.resume, allow_changes=told.allow_changes)
