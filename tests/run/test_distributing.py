"""What becomes of towers on several processes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from tests.towers.tiny import tiny_batch, tiny_model
from vlp.run.distributing import norm_whole_batches


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_norms_that_see_whole_batches_keep_their_activations(name):
    model = tiny_model(image={"type": "timm", "name": name}).eval()
    pixels = tiny_batch(model, ["a cat", "a dog"])[0][0]
    before = model.embed_images(pixels)
    norm_whole_batches(model)
    norms = [module for module in model.core.modules() if isinstance(module, _BatchNorm)]
    assert norms and all(isinstance(norm, SyncBatchNorm) for norm in norms)
    assert torch.equal(model.embed_images(pixels), before)
