"""What becomes of towers on several processes."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from accelerate import Accelerator
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tests.processes import run_processes
from tests.small_steps import small_recipe
from tests.towers.tiny import tiny_batch, tiny_model
from vlp.run.distributing import distribute, norm_whole_batches


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_norms_that_see_whole_batches_keep_their_activations(name):
    model = tiny_model(image={"type": "timm", "name": name}).eval()
    pixels = tiny_batch(model, ["a cat", "a dog"])[0][0]
    before = model.embed_images(pixels)
    norm_whole_batches(model, torch.device("cuda"))
    norms = [module for module in model.core.modules() if isinstance(module, _BatchNorm)]
    assert norms and all(isinstance(norm, SyncBatchNorm) for norm in norms)
    assert torch.equal(model.embed_images(pixels), before)


def _exchanged(rank: int, world_size: int) -> tuple[int, int, list[str]]:
    """Return how many products a backward pass has beyond that of one process, of how many parameters."""
    model = tiny_model()
    num_parameters = len(list(model.parameters()))
    batch = tiny_batch(model, ["a cat", "a dog"])
    counts = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = distribute(Accelerator(cpu=True), model, small_recipe("vitb32_clip"), sharded=False)
    for wrapped in (model, whole):
        for _ in range(3):  # buckets are formed by the first
            model.zero_grad(set_to_none=True)
            with torch.profiler.profile() as profile:
                embeddings = wrapped(*batch)
                (embeddings.image[0].sum() + embeddings.text[0].sum() * embeddings.scale).backward()
        counts.append(sum(event.name == "aten::mul" for event in profile.events()))
    return counts[1] - counts[0], num_parameters, [str(each.message) for each in caught]


@pytest.mark.processes
@pytest.mark.skipif(
    "batched_grad_copy" not in inspect.signature(DistributedDataParallel).parameters, reason="needs torch 2.14"
)
def test_gradients_are_exchanged_in_few_launches_and_torch_has_nothing_to_complain_about():
    for more, num_parameters, said in run_processes(_exchanged, 2):
        assert num_parameters > 20 and more < 5
        assert not [line for line in said if "deprecated" in line]
