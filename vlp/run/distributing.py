"""How the parameters of a run lie on its processes: a copy on each, or parts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.recipe.schema import Recipe
from vlp.towers.dual import DualEncoder
from vlp.towers.sharding import shard
from vlp.towers.whole_batch_norm import put_whole_batch_norms

REFUSED_OF_FSDP = {
    "fsdp_offload_params": "parameters stay on the device",
    "fsdp_cpu_ram_efficient_loading": "every process reads the weights that it starts from",
    "fsdp_activation_checkpointing": "model.grad_checkpointing recomputes activations",
}


def norm_whole_batches(towers: DualEncoder, device: torch.device) -> None:
    """Let batch norms see the batches of all processes.

    On a GPU torch does that. timm converts its own norms, which hold their activation: torch's converter takes them for
    plain ones, without any.
    """
    if device.type == "cuda":
        towers.core = convert_sync_batchnorm(towers.core)
    else:
        put_whole_batch_norms(towers.core)


def is_sharded() -> bool:
    """Whether the launch asks for parameters split over its processes: `recipes/launch/fsdp2.yaml` does.

    Raises:
        RecipeError: It asks for what is not done here.
    """
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RecipeError("fsdp_version: parameters are sharded by FSDP2 alone: set fsdp_version: 2 (FSDP_VERSION=2)")
    for key, way_out in REFUSED_OF_FSDP.items():
        if parse_flag_from_env(key.upper()):
            raise RecipeError(f"{key}: has no effect here: set it to false; {way_out}")
    return dist.world_size() > 1


def distribute(
    accelerator: Accelerator, towers: DualEncoder, recipe: Recipe, *, sharded: bool, twins: Iterable[DualEncoder] = ()
) -> nn.Module:
    """Place the towers, and wrap them for several processes; the optimizer takes its parameters afterwards.

    Args:
        sharded: Split parameters over processes.
        twins: Further towers to split in the same way.

    Raises:
        RecipeError: `train.shards` does not fit the launch.
    """
    if not sharded:
        if recipe.train.shards is not None and dist.world_size() > 1:
            raise RecipeError("train.shards: the launch shards nothing; use recipes/launch/fsdp2.yaml, or remove it")
        towers.to(memory_format=torch.channels_last)  # what convolution kernels are fastest with
        accelerator.ddp_handler = copies_of(towers)
        model: nn.Module = accelerator.prepare_model(towers)
        return model
    mesh = mesh_of(accelerator.device.type, recipe.train.shards)
    for each in (towers, *twins):
        shard(
            each.to(accelerator.device),
            mesh,
            number_format=recipe.train.number_format,
            reshard_after_forward=parse_flag_from_env("FSDP_RESHARD_AFTER_FORWARD", default=True),
        )
    return towers


@dataclass
class Copies(DistributedDataParallelKwargs):
    """Beside what Accelerate knows, what newer versions of torch take."""

    forward_sync_buffers: bool | None = None
    batched_grad_copy: bool = False


def copies_of(towers: DualEncoder) -> Copies:
    """Return how whole copies of towers are kept equal.

    Buffers that no step changes are equal already. Gradients need no second copy to be exchanged from, and get there
    in two launches for each of few buckets where torch can do that (2.14), not in one for each parameter.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    syncs = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    copies = Copies(gradient_as_bucket_view=True, batched_grad_copy="batched_grad_copy" in known)
    return replace(copies, **{syncs: towers.has_batch_norm})


def mesh_of(device_type: str, shards: int | None) -> DeviceMesh:
    """Return how processes hold parameters: parts of them along the last axis, copies along the first of two.

    Raises:
        RecipeError: Copies would be of different sizes.
    """
    size = dist.world_size()
    if shards is None or shards == size:
        return init_device_mesh(device_type, (size,))
    if size % shards:
        raise RecipeError(f"train.shards: {size} processes cannot hold whole copies of {shards} parts each")
    return init_device_mesh(device_type, (size // shards, shards), mesh_dim_names=("copies", "parts"))
