"""How the towers of several processes are held together."""

from __future__ import annotations

import pytest
from torch.nn.parallel import DistributedDataParallel

from tests.processes import run_processes
from tests.small_steps import small_parts, small_recipe
from vlp.ground import dist

RESNET = {"type": "timm", "name": "test_resnet"}


def _wrapped(rank, world_size):
    found = {}
    for name, image in (("vit", None), ("resnet", RESNET)):
        with pytest.MonkeyPatch.context() as patched:
            recipe = small_recipe("smoke", **({} if image is None else {"image": image}))
            model = small_parts(patched, recipe).model
        assert isinstance(model, DistributedDataParallel)
        found[name] = model.broadcast_buffers, model.gradient_as_bucket_view
        dist.barrier()
    return found


@pytest.mark.processes
def test_buffers_are_sent_where_a_step_changes_them_and_gradients_lie_where_they_are_exchanged():
    for found in run_processes(_wrapped, 2):
        assert found == {"vit": (False, True), "resnet": (True, True)}
