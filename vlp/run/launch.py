"""How a process joins its job, whatever launched it, and what must be equal on all processes of a job."""

from __future__ import annotations

import atexit
import faulthandler
import os
from collections.abc import Mapping
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vlp.ground import dist
from vlp.ground.bits import checksum
from vlp.ground.types import RecipeError
from vlp.run import rendezvous
from vlp.run.watchdog import STDERR

# Under which names launchers say how many processes they started: torchrun and accelerate, Open MPI, MPICH, MVAPICH.
COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
# Set by the launchers that look after their processes: torchrun (and accelerate with several), accelerate with one.
LAUNCHERS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_USE_CPU")
LEAVE_TIMEOUT = 30.0  # seconds that a process waits at its end for collectives that another has given up
START_TIMEOUT = 1800.0  # seconds: machines import, download weights and look at shards at different speeds


def join(*, log_with: list[str] | None = None, project_dir: str | None = None) -> Accelerator:
    """Start this process's part of a training job.

    Args:
        log_with: Trackers of Accelerate.
        project_dir: Where trackers put their files.

    Raises:
        RecipeError: The launcher started several processes that do not know of each other.
    """
    accelerator = Accelerator(
        cpu=_computes_on_cpu(),
        mixed_precision="no",  # autocast is opened around the towers by the training step
        log_with=log_with,
        project_dir=project_dir,
        kwargs_handlers=[InitProcessGroupKwargs(init_method=rendezvous.URL, timeout=timedelta(seconds=START_TIMEOUT))],
    )
    atexit.register(leave)
    _check_counts(accelerator.num_processes)
    return accelerator


def join_evaluation() -> torch.device:
    """Start this process's part of an evaluation; return where it computes.

    Raises:
        RecipeError: As `join`.
    """
    state = PartialState(cpu=_computes_on_cpu(), init_method=rendezvous.URL)
    atexit.register(leave)
    _check_counts(state.num_processes)
    device: torch.device = state.device
    return device


def leave() -> None:
    """Take this process out of its job, while the interpreter still runs.

    Collectives have threads of their own, which put Python objects away behind the last one. A thread that does so
    while the interpreter ends aborts the process ("terminate called without an active exception"), so that a job
    which did everything ends with exit code 134. Where a thread waits for a process that is gone, the exit code is 1.
    """
    faulthandler.dump_traceback_later(LEAVE_TIMEOUT, exit=True, file=STDERR)
    dist.leave()
    faulthandler.cancel_dump_traceback_later()


def was_launched() -> bool:
    """Whether a launcher that waits for this process started it."""
    return any(name in os.environ for name in LAUNCHERS)


def check_same(what: str, value: str) -> None:
    """Check that all processes hold the same value.

    Raises:
        RecipeError: They do not; names the processes that differ from the first.
    """
    values = dist.gather_objects(value)
    others = [number for number, other in enumerate(values) if other != values[0]]
    if others:
        raise RecipeError(
            f"{what}: processes {', '.join(map(str, others))} have another one than process 0: start all processes "
            "with the same command, code and files"
        )


def check_wrapped(model: nn.Module, towers: nn.Module) -> None:
    """Check that somebody looks after gradients where several processes train one model.

    Raises:
        RuntimeError: The model was not wrapped, so that each process would train a model of its own.
    """
    sharded = any(isinstance(parameter, DTensor) for parameter in towers.parameters())
    if dist.world_size() > 1 and model is towers and not sharded:
        raise RuntimeError(f"{dist.world_size()} processes share a model that nothing wraps: gradients would differ")


def agreed_checksum(tensors: Mapping[str, Tensor]) -> float:
    """Return the checksum of tensors that are whole on every process, once all processes have found the same one.

    Raises:
        RuntimeError: Processes differ: their models have drifted apart, and nothing computed since can be trusted.
    """
    whole = {name: value for name, value in tensors.items() if not isinstance(value, DTensor)}
    found = int(checksum(whole.values()))
    everyone = dist.gather_objects(found)
    if len(set(everyone)) > 1:
        apart = [name for name, value in whole.items() if len(set(dist.gather_objects(int(checksum([value]))))) > 1]
        raise RuntimeError(
            f"the weights differ between processes ({', '.join(map(str, everyone))}), first in {apart[0]} "
            f"({len(apart)} of {len(whole)} tensors): gradients were not the same everywhere; resume from a checkpoint "
            "on other machines, or report this with the launch command"
        )
    return float(found)


def _computes_on_cpu() -> bool:
    # untold, Accelerate starts the process group of several CPU processes and then works as if it were alone
    return not torch.accelerator.is_available()


def _check_counts(believed: int) -> None:
    started = dist.world_size()
    said = max((int(os.environ[name]) for name in COUNTS if os.environ.get(name, "").isdecimal()), default=1)
    if "LOCAL_RANK" not in os.environ:  # else srun started the launchers, one per machine
        said = max(said, int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")))
    if not believed == started == max(said, started):
        raise RecipeError(
            f"{said} processes were launched, {started} of them work together, and Accelerate counts {believed}: each "
            "would train a model of its own. Launch with torchrun (recipes/launch/torchrun.sh) or `accelerate launch`"
        )
