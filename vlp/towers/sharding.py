"""Parameters that are split over processes (FSDP2): blocks of the towers, then the rest."""

from __future__ import annotations

import warnings

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils import _pytree as pytree

from vlp.ground.types import Embeddings, Teacher
from vlp.towers.blocks import blocks_of
from vlp.towers.dual import DualEncoder

for kind in (Embeddings, Teacher):
    pytree.register_dataclass(kind)  # FSDP2 looks for what comes out of the towers in there


def shard(
    towers: DualEncoder, mesh: DeviceMesh, *, number_format: torch.dtype | None, reshard_after_forward: bool
) -> None:
    """Split every parameter over the processes of `mesh`, in place; a block is whole while it computes.

    Along the first of two axes there are copies, whose gradients are added up.

    What belongs to no block (embeddings of tokens and positions, projections, the scale) is whole from the forward to
    the end of the backward pass: it is used in pieces, outside any module that is called.

    Args:
        number_format: What the parameters of blocks are gathered in; None is their own. Gradients are added up in
            float32 in any case.
        reshard_after_forward: Free the blocks' parameters between forward and backward, and gather them twice.
    """
    # a warning about in-place operations on what comes out, of which there are none
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy(param_dtype=number_format, reduce_dtype=number_format and torch.float32)
    for tower in (towers.core.visual, towers.core.text, towers.decoder):
        for block in blocks_of(tower) if tower is not None else ():
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward)
    fully_shard(towers, mesh=mesh, reshard_after_forward=False)
    if mesh.device_type == "cpu":  # gloo of torch 2.8 takes a mean for a sum, without a word
        for module in towers.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
    for method in ("embed_images", "embed_tokens", "see"):
        register_fsdp_forward_method(towers, method)


def split_again(towers: DualEncoder) -> None:
    """Let go of whole parameters after a pass without gradients, behind which no backward pass does so."""
    for module in towers.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
