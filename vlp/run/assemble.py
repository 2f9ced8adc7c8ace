"""From a recipe to the parts of a run, ready for the first step or for the one after a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

import vlp.run.trained_model  # noqa: F401 - weights may come from runs
from vlp.data import Augment, Stream
from vlp.ground import dist
from vlp.ground.cores import fair_share
from vlp.objectives.base import Objective
from vlp.recipe.model import build_model, settled
from vlp.recipe.named_parts import (
    build_kind,
    build_objective,
    build_strategies,
    load_strategies,
    teacher_dim_of,
    widths_of,
)
from vlp.recipe.schema import Recipe, settings
from vlp.run.background_writer import BackgroundWriter
from vlp.run.build_stream import build_augment, build_stream
from vlp.run.compatibility import check_fit
from vlp.run.compiled_graphs import CompiledGraphs
from vlp.run.distributing import distribute, is_sharded, norm_whole_batches
from vlp.run.float8_fit import check_float8
from vlp.run.folder import Claim, claim_folder
from vlp.run.kept_towers import KeptTowers, keep_towers
from vlp.run.launch import check_same, check_wrapped, join
from vlp.run.log import Log
from vlp.run.micro_batch_count import MicroBatchCount, count_micro_batches
from vlp.run.near_cores import stay_near
from vlp.run.ready import check_ready, check_room
from vlp.run.score_history import ScoreHistory
from vlp.run.stored_teachers import settle_stored_teachers
from vlp.run.trackers import start_trackers
from vlp.run.utilisation import Utilisation
from vlp.run.way_from_start import WayFromStart
from vlp.step.guarded_step import SafeStep
from vlp.step.learning_rate import learning_rate_factor
from vlp.step.optimizer import build_optimizer, check_unfreezing
from vlp.step.optimizers.base import OptimizerKind
from vlp.step.pull import PullToStart, build_pull
from vlp.strategies.base import Strategy
from vlp.towers.blocks import blocks_of
from vlp.towers.compiling import compile_towers
from vlp.towers.dual import DualEncoder
from vlp.towers.float8 import multiply_in_float8
from vlp.towers.sharding import split_again
from vlp.towers.tuning.base import DEFAULT

SCALED, FIRST_LOSS_SCALE = "float16", 65536.0  # the precision whose loss is scaled
PLACES: dict[str, Any] = {"runs": True, "data": {"train": {"__all__": {"card"}}}}  # may differ between machines


@dataclass
class Run:
    """All that a run works with.

    Args:
        claim: The run's right to its folder; `restore` makes it good.
        model: The dual encoder as the accelerator wrapped it; the training step calls this one.
        towers: The dual encoder itself.
        kind: What the recipe names as its optimizer.
        optimizer: Of the towers.
        pull: What pulls the towers to where they started, if anything.
        term_optimizer: Of the parameters that terms bring along, if any.
        rate: Factor of the learning rate at a step.
        micro_batches: In how many pieces a process embeds its share.
        utilisation: How much of the device the model makes use of.
        graphs: How many of them `train.compile` has made.
        kept: What locked towers have said, where the recipe wants it kept.
        way: How far towers have gone, where `model.tune` adapts them.
        scores: What its evaluations have found.
        writer: Of checkpoints that are written while training goes on.
    """

    recipe: Recipe
    claim: Claim
    accelerator: Accelerator
    stream: Stream
    augment: Augment
    model: nn.Module
    towers: DualEncoder
    objective: Objective
    strategies: dict[str, Strategy]
    kind: OptimizerKind
    optimizer: torch.optim.Optimizer
    pull: PullToStart | None
    term_optimizer: torch.optim.Optimizer | None
    safe_step: SafeStep
    rate: Callable[[int], float]
    num_steps: int
    micro_batches: MicroBatchCount
    utilisation: Utilisation
    graphs: CompiledGraphs
    scores: ScoreHistory
    kept: KeptTowers
    way: WayFromStart | None
    writer: BackgroundWriter = field(default_factory=BackgroundWriter)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """Trained parameters by tower."""
        sets = {"image": list(self.towers.core.visual.parameters()), "text": list(self.towers.core.text.parameters())}
        if self.towers.decoder is not None:
            sets["decoder"] = list(self.towers.decoder.parameters())
        known = {id(parameter) for values in sets.values() for parameter in values}
        sets["scale"] = [parameter for parameter in self.towers.parameters() if id(parameter) not in known]
        if self.term_optimizer is not None:
            sets["terms"] = list(self.objective.parameters())
        return {name: [p for p in values if p.requires_grad] for name, values in sets.items()}

    def no_sync(self) -> Any:
        """Return a context in which gradients stay where they are made; not those of sharded parameters, whose sum
        would need the memory of whole ones."""
        return nullcontext() if isinstance(self.model, FSDPModule) else self.accelerator.no_sync(self.model)

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """All that steps."""
        return self.safe_step.optimizers

    def averages(self) -> dict[str, Tensor]:
        """Return weights that the optimizer averages, by name: what a run ends with, in place of those that train."""
        found = self.kind.averages(self.optimizer)
        return {name: found[value] for name, value in self.towers.named_parameters() if value in found}

    def clamp(self) -> None:
        """Keep the inverse temperature in its range, and what the optimizer moves beside it."""
        scale = self.towers.core.logit_scale
        moved = self.kind.moved(self.optimizer, scale) if scale.requires_grad else []
        self.towers.clamp_(*(tensor for tensor, _ in moved if tensor is not scale))

    @property
    def kept_equal(self) -> dict[str, Tensor]:
        """What every process holds a copy of and changes in the same way, by name; not statistics of batch norm."""
        towers: dict[str, Tensor] = dict(self.towers.named_parameters())
        sets: dict[str, dict[str, Tensor]] = {"model": towers, "objective": dict(self.objective.named_parameters())}
        for label, strategy in self.strategies.items():
            sets[label] = {name: value for name, value in (strategy.weights() or {}).items() if name in towers}
        return {f"{label}.{name}": value for label, values in sets.items() for name, value in values.items()}

    def gauges(self) -> dict[str, float]:
        """Return what terms and strategies say of themselves, by label and name; called by all processes."""
        found = self.objective.gauges()
        for label, strategy in self.strategies.items():
            found |= {f"{label}/{name}": value for name, value in strategy.gauges(self.towers).items()}
        return found

    def open_log(self, first_step: int) -> Log:
        """Open the progress line, `metrics.jsonl` and the trackers, and say what the towers start from."""
        with dist.together():
            log = Log(
                self.recipe.folder / "metrics.jsonl",
                num_steps=self.num_steps,
                first_step=first_step,
                is_main=dist.is_main(),
                track=start_trackers(self.accelerator, self.recipe, self.claim.run_id),
            )
        for line in self.towers.origins() if first_step == 0 else ():
            log.say(line)
        self.micro_batches.open(self.recipe.folder, log.say)
        self.kept.open(self.recipe, self.towers, self.claim.data, log.say)
        return log


def assemble(recipe: Recipe, *, resume: bool, allow_changes: bool) -> Run:
    """Build everything that a recipe names, and check that it fits together.

    Raises:
        RecipeError: A combination that cannot work; names the keys and a way out.
    """
    accelerator = _start_processes(recipe)
    check_ready(recipe)
    check_float8(recipe.train, accelerator.device)
    with dist.together():
        towers = build_model(recipe.model)
    recipe = settled(recipe, towers)
    way = None if recipe.model.tune.type == DEFAULT else WayFromStart(towers)
    objective = build_objective(recipe)
    used = build_strategies(recipe)
    with dist.together():
        read = load_strategies(used)
    check_same("what strategies read", json.dumps(read))
    towers.hands_out_features = "features" in objective.needs
    objective.create(towers.embed_dim, teacher_dim_of(used), *widths_of(towers, objective))
    sharded = is_sharded()
    kind, shared = build_kind(recipe)
    check_fit(recipe, towers, objective, used, sharded=sharded)
    with dist.together():
        stream = build_stream(recipe, towers, accelerator.device)
    check_same("the number of samples", str(stream.num_samples))
    kept = keep_towers(recipe, towers, used, stream, sharded=sharded)
    objective.expect(stream.num_samples)
    if recipe.train.first_batches:
        objective.foresee(size // dist.world_size() for size in recipe.train.batch_sizes.sizes)
    num_steps = count_steps(recipe, stream.epoch_size)
    with dist.together():
        settle_stored_teachers(recipe, towers, stream, used, num_steps)
    claim = claim_folder(recipe, stream.samples, towers.loaded, resume=resume, allow_changes=allow_changes)
    towers.train()
    if towers.has_batch_norm and dist.world_size() > 1:
        norm_whole_batches(towers, accelerator.device)
    if recipe.train.float8 is not None:
        blocks = (*blocks_of(towers.core.visual), *blocks_of(towers.core.text))
        multiply_in_float8(blocks, scales=recipe.train.float8, emulate=accelerator.device.type != "cuda")
    for strategy in used.values():
        strategy.borrow(objective.lent())
    twins = [twin for strategy in used.values() if sharded and (twin := strategy.twin_of(towers)) is not None]
    for each in (towers, *twins) if recipe.train.compile else ():
        compile_towers(each.core, whole=recipe.train.compile == "towers")
    model = distribute(accelerator, towers, recipe, sharded=sharded, twins=twins)
    check_wrapped(model, towers)
    if sharded and recipe.checkpoint.sharded:
        dist.group_aside()  # before the watchdog tells groups how long to wait
    optimizer = build_optimizer(towers, towers.blocks_behind(), kind, towers.names_in_blocks(), **shared)
    check_unfreezing(optimizer, num_steps)
    pull = build_pull(kind, optimizer)
    term_optimizer = build_term_optimizer(objective.to(accelerator.device), recipe)
    augment = build_augment(recipe, towers).to(accelerator.device)
    for strategy in used.values():
        strategy.augmented_by(augment)
        strategy.start(towers)
    if sharded:
        split_again(towers)  # strategies have tried it, and nothing else splits it again without a backward pass
    dist.on_main(lambda: check_room(recipe, towers, objective, used.values()))
    return Run(
        recipe=recipe,
        claim=claim,
        accelerator=accelerator,
        stream=stream,
        augment=augment,
        model=model,
        towers=towers,
        objective=objective,
        strategies=used,
        kind=kind,
        optimizer=optimizer,
        pull=pull,
        term_optimizer=term_optimizer,
        safe_step=SafeStep(
            [each for each in (pull, optimizer, term_optimizer) if each is not None],
            max_norm=recipe.train.clip_gradient_norm,
            loss_scale=FIRST_LOSS_SCALE if recipe.train.precision == SCALED else 1.0,
            device=str(accelerator.device),
        ),
        rate=learning_rate_factor(num_steps, recipe.train.batch_size, **settings(recipe.schedule)),
        num_steps=num_steps,
        micro_batches=count_micro_batches(recipe, towers, accelerator.device),
        utilisation=Utilisation(recipe, accelerator.device, reads_texts=kept.texts is None),
        graphs=CompiledGraphs(recipe),
        scores=ScoreHistory(recipe.evaluation),
        kept=kept,
        way=way,
    )


def count_steps(recipe: Recipe, epoch_size: int) -> int:
    """Return the length of the training in steps."""
    length = recipe.train
    if length.steps is not None:
        return length.steps
    samples = length.samples if length.samples is not None else (length.epochs or 0) * epoch_size
    return length.batch_sizes.count(samples)


def _start_processes(recipe: Recipe) -> Accelerator:
    """Start the accelerator; threads, seeds and determinism are set here and nowhere else."""
    accelerator = join(log_with=list(recipe.log.trackers) or None, project_dir=str(recipe.folder))
    check_same("the recipe", json.dumps(recipe.model_dump(mode="json", exclude=PLACES)))
    stay_near(accelerator.device)
    if accelerator.device.type == "cpu":
        torch.set_num_threads(recipe.train.threads or fair_share())
    if recipe.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    choose_kernels(deterministic=recipe.train.deterministic)
    torch.manual_seed(recipe.seed)
    return accelerator


def choose_kernels(*, deterministic: bool) -> None:
    """Let CUDA multiply float32 matrices with fewer digits (TF32) and look for its fastest convolutions, or neither.

    The objective is computed without TF32 in any case.
    """
    torch.backends.cuda.matmul.allow_tf32 = not deterministic
    torch.backends.cudnn.allow_tf32 = not deterministic
    torch.backends.cudnn.benchmark = not deterministic


def build_term_optimizer(objective: Objective, recipe: Recipe) -> torch.optim.Optimizer | None:
    """Return an optimizer of the terms' own parameters with the recipe's settings; its patterns are for towers."""
    if not any(True for _ in objective.parameters()):
        return None
    kind, shared = build_kind(recipe)
    for of_towers in ("no_decay", "groups", "decay_towards"):
        del shared[of_towers]
    return build_optimizer(objective, kind=kind, **shared)
