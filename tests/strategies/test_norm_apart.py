"""Changed images are normalised by themselves, and leave what evaluation uses to the clean ones."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from tests.small_steps import batch_for, small_parts, small_recipe
from vlp.strategies.norm_apart import NormApart
from vlp.train import one_step


def tower() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), BatchNormAct2d(5))


def rows(seed, num=4):
    return torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * (1 + seed)


def test_both_parts_are_what_they_are_alone():
    clean, changed, joint = tower(), tower(), tower()
    NormApart(joint).share = 1 / 3
    found = joint(torch.cat([rows(0, 8), rows(1)]))
    torch.testing.assert_close(found[:8], clean(rows(0, 8)))
    torch.testing.assert_close(found[8:], changed(rows(1)))
    for name, average in clean.named_buffers():
        torch.testing.assert_close(dict(joint.named_buffers())[name], average)
    assert not torch.allclose(joint[1].running_var, changed[1].running_var)


@pytest.mark.parametrize("shares", [(1 / 2, 1 / 3), (1 / 2, 0.0), (0.0, 1 / 2)])
def test_two_on_one_tower_each_have_rows_of_their_own(shares):
    joint = tower()
    for share in shares:
        NormApart(joint).share = share
    parts = [rows(seed) for seed in range(1 + sum(share > 0 for share in shares))]
    alone = [tower() for _ in parts]
    wanted = torch.cat([one(part) for one, part in zip(alone, parts, strict=True)])
    torch.testing.assert_close(joint(torch.cat(parts)), wanted)
    for name, average in alone[0].named_buffers():
        torch.testing.assert_close(dict(joint.named_buffers())[name], average)


def test_gradients_of_shared_gains_are_sums():
    parts, joint = [tower(), tower()], tower()
    NormApart(joint).share = 0.5
    joint(torch.cat([rows(0), rows(1)])).sin().sum().backward()
    for seed, part in enumerate(parts):
        part(rows(seed)).sin().sum().backward()
    torch.testing.assert_close(joint[1].weight.grad, parts[0][1].weight.grad + parts[1][1].weight.grad)


@pytest.mark.parametrize("change", [lambda model: model.eval(), lambda model: model.requires_grad_(False)])
def test_norms_that_rest_or_are_locked_see_all_rows_alike(change):
    plain, joint = change(tower()), change(tower())
    NormApart(joint).share = 0.5
    torch.testing.assert_close(joint(rows(0)), plain(rows(0)))


def test_without_a_share_nothing_changes():
    plain, joint = tower(), tower()
    NormApart(joint)
    assert torch.equal(joint(rows(0)), plain(rows(0)))


def test_a_step_averages_clean_images_alone(monkeypatch):
    image = {"type": "timm", "name": "resnet10t", "image_size": 64}
    settings = ("train.precision=float32", "train.batch_size=8")
    recipe = small_recipe("vitb32_clip", "strategies.adversarial_images={epsilon: 8}", *settings, image=image)
    parts = small_parts(monkeypatch, recipe)
    batch = batch_for(recipe, 8)
    alone = copy.deepcopy(parts.towers)
    for module in alone.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    one_step(parts, batch, 0)
    alone.embed_images(parts.augment(batch.images, batch.draws)[0])
    for name, average in alone.core.visual.named_buffers():
        torch.testing.assert_close(dict(parts.towers.core.visual.named_buffers())[name], average, rtol=1e-4, atol=1e-5)
