"""Steps on CUDA without CUDA: fake tensors know their device and refuse to mix, as real ones do.

The backward pass of fake CUDA tensors wants a driver: the step is followed to the loss, and from the gradients on.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.utils import _to_kwargs
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from benchmarks.gpu.waits import WAITING, place_in_project
from tests.small_steps import PLAIN_STEPS, RECIPES, batch_for, small_parts, small_recipe
from tests.step.optimizers.runs import MORE
from tests.towers.tiny import tiny_model
from vlp import train
from vlp.data import Faults
from vlp.pairs.engine import walk
from vlp.pairs.engine.fused import share_out
from vlp.run import checkpoint, saving
from vlp.run.background_writer import copied
from vlp.step.optimizers.base import optimizers
from vlp.towers import view_encoder
from vlp.towers.unpadded_attention import OPERATIONS

CUDA = torch.device("cuda", 0)
SIZE = 16
# Operations whose results vary from run to run on CUDA, which train.deterministic therefore refuses.
VARYING = ("bincount", "cumsum", "histc", "put_", "kthvalue", "median", "logcumsumexp", "nll_loss2d", "embedding_bag")


class Moving(nn.Module):
    """What DDP and FSDP2 do with the inputs of a forward before they hand them on."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs, **named):
        (moved,), (named,) = _to_kwargs(inputs, named, CUDA, False)
        return self.module(*moved, **named)


class Answers(TorchDispatchMode):
    """Compute on the CPU what stays there; answer with something of a possible shape what depends on data of fakes."""

    def __init__(self):
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.operations: Counter[object] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name, kwargs = operation.__name__, kwargs or {}
        self.operations[operation] += 1
        assert name.split(".")[0] not in VARYING, name
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        fake = [x for x in tensors if isinstance(x, FakeTensor)]
        if tensors and not fake and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            with _disable_current_modes():
                return operation(*args, **kwargs)
        if WAITING.match(f"aten.{name}") and any(value.device == CUDA for value in fake):
            self.waits[f"{place_in_project()} {name}"] += 1
        if fake and name == "_local_scalar_dense.default":
            return 1.0 if fake[0].dtype.is_floating_point else 1
        if fake and name == "_unique2.default":
            flat = args[0].flatten()
            return flat.clone(), torch.zeros_like(flat), torch.ones_like(flat)
        if fake and name == "nonzero.default":
            return args[0].new_zeros(args[0].numel(), args[0].ndim, dtype=torch.int64)
        if fake and name == "index.Tensor" and (mask := _mask_of(args[1])) is not None:
            return args[0].flatten(0, mask.ndim - 1).clone()
        return operation(*args, **kwargs)


def _mask_of(indices):
    return next((index for index in indices if index is not None and index.dtype == torch.bool), None)


@pytest.fixture
def cuda(monkeypatch):
    """Let tensors be made on CUDA and never ask a driver."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda values: values)
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda: None))  # asked in the next step
    monkeypatch.setattr(torch.utils, "swap_tensors", _move)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(walk, "share_out", lambda _, *asked: share_out("tiles", *asked))  # Triton asks which GPU it is
    monkeypatch.setattr(view_encoder, "load_any_model", lambda _: tiny_model())  # weights of teachers have content
    with FakeTensorMode(allow_non_fake_inputs=True), Answers() as answers:
        yield answers


def _move(parameter, moved):
    """Give a fake parameter another device in place, which modules do by exchanging it for its copy."""
    parameter.fake_device = moved.fake_device


def _accelerator(wrap):
    return SimpleNamespace(
        device=CUDA, num_processes=1, prepare_model=lambda model: wrap(model.to(CUDA)), no_sync=lambda _: nullcontext()
    )


def _step_to_the_loss(monkeypatch, recipe, wrap):
    """Run the product's step, with gradients that fell from the sky where the backward pass would be."""
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: losses.append(loss))
    monkeypatch.setattr(torch.autograd, "grad", lambda _loss, of: (torch.zeros_like(of),))
    losses = []
    parts = small_parts(monkeypatch, recipe, _accelerator(wrap))
    for parameter in (*parts.towers.parameters(), *parts.objective.parameters()):
        assert parameter.device == CUDA
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda *_, **__: _give_gradients(parts))
    with _disable_current_modes():
        batch = batch_for(recipe, SIZE)
    report, norms = train.one_step(parts, batch.to(CUDA), 0)
    assert losses and {value.device for value in (*report.values(), *norms.values())} == {CUDA}
    return parts


def _give_gradients(parts):
    for parameter in (*parts.towers.parameters(), *parts.objective.parameters()):
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def test_there_are_recipes_to_try():
    assert len(RECIPES) > 40


@pytest.mark.filterwarnings("ignore:isogclr")  # a batch of 16 cannot spend its budget
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_a_step_on_a_gpu(cuda, monkeypatch, name):
    """In a wrapper that moves all tensors, the hardest case of one GPU, DDP and FSDP2; nobody waits for the device."""
    _step_to_the_loss(monkeypatch, small_recipe(name, *PLAIN_STEPS, buckets="auto"), Moving)
    assert cuda.waits == {}


def test_what_begins_late_takes_a_step_on_a_gpu_too(cuda, monkeypatch):
    at_once = [f"objective.{term}.weight=0.5" for term in ("self_distillation", "masked_prediction")]
    _step_to_the_loss(monkeypatch, small_recipe("vitb16_siglip2", *PLAIN_STEPS, *at_once), Moving)
    assert cuda.waits == {}


@pytest.mark.skipif(not OPERATIONS, reason="torch has no attention for captions of any lengths before 2.11")
@pytest.mark.parametrize(
    ("precision", "buckets", "calls"), [("bfloat16", "auto", True), ("bfloat16", 4, False), ("float32", "auto", False)]
)
def test_captions_are_not_padded_in_half_precision(cuda, monkeypatch, precision, buckets, calls):
    recipe = small_recipe("vitb32_clip", *PLAIN_STEPS, f"train.precision={precision}", buckets=buckets)
    _step_to_the_loss(monkeypatch, recipe, Moving)
    assert (cuda.operations.keys() >= OPERATIONS) is calls


def test_a_state_leaves_a_gpu_through_pinned_memory_with_one_wait(cuda, monkeypatch):
    waited, pinned, empty_like = [], [], torch.empty_like

    def spy(value, **settings):
        pinned.append(settings.pop("pin_memory", False))
        return empty_like(value, **settings)

    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch, "empty_like", spy)
    live = {"a": torch.ones(3, 2, device=CUDA), "b": [torch.zeros(2, device=CUDA, dtype=torch.bfloat16), 3]}
    found = copied(live)
    assert {value.device.type for value in (found["a"], found["b"][0])} == {"cpu"}
    assert (found["b"][0].dtype, found["b"][1]) == (torch.bfloat16, 3)
    assert pinned == [True, True] and waited == [CUDA]
    assert cuda.waits == {}  # neither of the copies waits by itself


def test_a_state_that_is_written_in_the_background_leaves_a_gpu_in_one_go(cuda, monkeypatch):
    recipe = small_recipe("vitb32_clip", *PLAIN_STEPS, "strategies={ema: {}}")
    parts = _step_to_the_loss(monkeypatch, recipe, lambda model: model)
    written, copies, waited = [], [], []
    stream = SimpleNamespace(faults=Faults())
    for name, value in {"stream": stream, "kept": MagicMock(), "claim": MagicMock(), "writer": MagicMock()}.items():
        monkeypatch.setattr(parts, name, value)
    parts.writer.start = lambda write, otherwise: write()
    monkeypatch.setattr(checkpoint, "is_saved", lambda *_: False)
    monkeypatch.setattr(checkpoint, "save", lambda _, **state: written.append(state))
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda value: copies.append(value) or value.to("cpu"))
    cuda.waits.clear()
    saving.save(parts, step=1, position=SIZE, background=True)
    tensors = [x for x in tree_leaves((written[0]["weights"], written[0]["training"])) if isinstance(x, torch.Tensor)]
    assert set(written[0]["weights"]) == {"model", "ema"} and len(tensors) > 4 * len(list(parts.towers.parameters()))
    assert {value.device.type for value in tensors} == {"cpu"}
    assert not copies and set(waited) == {CUDA} and cuda.waits == {}


@pytest.mark.parametrize("name", list(optimizers))
def test_every_optimizer_takes_a_step_on_a_gpu(cuda, monkeypatch, name):
    own = (f"optimizer.type={name}", "optimizer.decay_towards=start", *MORE.get(name, ()))
    _step_to_the_loss(monkeypatch, small_recipe("vitb32_clip", *own), Moving)
    assert cuda.waits == {}


@pytest.mark.parametrize("name", ["smoke", "vitb32_coca", "vitb32_image_grounded"])
def test_micro_batches_take_a_step_on_a_gpu(cuda, monkeypatch, name):
    _step_to_the_loss(monkeypatch, small_recipe(name, "train.micro_batches=2"), nn.Identity())
