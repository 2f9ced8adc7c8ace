"""Products in float8, emulated: how far gradients are off, what keeps its format, and what is refused."""

import sys

import pytest
import torch

from tests.strategies.runs import assert_resumes, recipe_of
from tests.towers.tiny import VIT, tiny_batch, tiny_model
from vlp.ground.types import RecipeError
from vlp.recipe.train_section import TrainSection
from vlp.run import assemble
from vlp.run.float8_fit import check_float8
from vlp.run.trained_model import load_model_of_run
from vlp.towers.blocks import blocks_of
from vlp.towers.float8 import multiply_in_float8

SCALES = ("tensorwise", "rowwise")


def gradients(model):
    pixels, tokens, lengths = tiny_batch(model)
    found = model(pixels, tokens, lengths)
    (found.image[:, 0].sum() + found.text[:, 0].sum()).backward()
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


def in_float8(scales, **settings):
    model = tiny_model(**settings)
    blocks = (*blocks_of(model.core.visual), *blocks_of(model.core.text))
    return model, multiply_in_float8(blocks, scales=scales, emulate=True)


@pytest.mark.parametrize("scales", SCALES)
def test_gradients_are_those_of_float32_to_three_bits(scales):
    pytest.importorskip("torchao.float8", reason="torchao is not installed")
    plain, names = gradients(tiny_model()), list(tiny_model().state_dict())
    model, converted = in_float8(scales)
    assert converted == 2 * 2 * 3  # out_proj, c_fc and c_proj of two blocks in each tower
    assert list(model.state_dict()) == names
    assert {type(value) for value in model.parameters()} == {torch.nn.Parameter}
    found = gradients(model)
    off = float((found - plain).norm() / plain.norm())
    assert 0.01 < off < 0.2  # e4m3 has three bits behind the point, e5m2 two: 0.06 and 0.13 for one number
    assert torch.equal(found, gradients(in_float8(scales, grad_checkpointing="selective")[0]))


def test_what_does_not_train_or_fit_stays_as_it_is():
    pytest.importorskip("torchao.float8", reason="torchao is not installed")
    assert in_float8("rowwise", freeze=("visual",))[1] == 2 * 3
    with pytest.raises(RecipeError, match=r"train\.float8: no linear layer trains"):
        in_float8("rowwise", tune="lora")
    odd = {**VIT, "width": 24, "head_width": 12}
    assert in_float8("rowwise", image=odd)[1] == 2 * 3


def test_a_run_resumes_and_leaves_plain_weights(monkeypatch, tmp_path):
    pytest.importorskip("torchao.float8", reason="torchao is not installed")
    converted = []
    monkeypatch.setattr(assemble, "check_float8", lambda *_: None)  # which refuses the CPU
    monkeypatch.setattr(
        assemble, "multiply_in_float8", lambda blocks, **how: converted.append(multiply_in_float8(blocks, **how))
    )
    recipe = recipe_of(tmp_path, "train.float8=tensorwise")
    assert_resumes(recipe)
    assert converted == [3, 3]  # of the image tower: the other one is 8 wide
    trained = load_model_of_run(recipe.folder)
    assert "Float8Linear" not in {type(module).__name__ for module in trained.model.modules()}


def test_torchao_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(RecipeError, match=r"pip install 'vlp\[float8\]'"):
        in_float8("rowwise")


def test_other_devices_and_formats_are_refused(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(RecipeError, match=r"train\.precision=bfloat16"):
        check_float8(TrainSection(float8="rowwise"), gpu)
    train = TrainSection(float8="rowwise", precision="bfloat16")
    with pytest.raises(RecipeError, match="this device is no GPU"):
        check_float8(train, cpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    with pytest.raises(RecipeError, match=r"needs compute capability 9\.0, and this device has 8\.9"):
        check_float8(train, gpu)
    check_float8(train.model_copy(update={"float8": "tensorwise"}), gpu)
