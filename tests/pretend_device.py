"""A device that holds numbers and is not the CPU: what mixes both fails as on a GPU, and what does not computes.

Inside `PretendDevice()` tensors go to `DEVICE` and back, which needs no GPU: the numbers are those of the CPU.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

DEVICE = torch.device("cuda", 0)
CPU = torch.device("cpu")
aten = torch.ops.aten
# As on CUDA: copies cross devices, and indices may lie on the CPU.
MIXED = {aten._to_copy.default, aten.copy_.default, aten.index.Tensor, aten.index_put_.default}


class HeldElsewhere(torch.Tensor):
    """A tensor on the pretended device."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> HeldElsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert a tensor on {DEVICE} to numpy; use .cpu() first")


class PretendDevice(TorchDispatchMode):
    """Lets functions make tensors on the device, too; nothing of CUDA is asked for."""

    def __enter__(self) -> PretendDevice:
        torch._C._ensureCUDADeviceGuardSet()
        self._initialise = mock.patch("torch.cuda._lazy_init", lambda: None)
        self._initialise.start()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=DEVICE) asks as `to` does
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)
        self._initialise.stop()

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(function, args, kwargs or {})


def dispatch(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU, and hand the result to where it belongs.

    Raises:
        RuntimeError: Tensors of both places meet.
    """
    tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, HeldElsewhere)]
    here = [tensor for tensor in tensors if not isinstance(tensor, HeldElsewhere) and tensor.dim()]
    goal = kwargs.get("device")
    if there and here and function not in MIXED:
        raise RuntimeError(f"{function}: expected all tensors on one device, found {DEVICE} and cpu")
    if goal is not None and torch.device(goal).type == DEVICE.type:
        kwargs = {**kwargs, "device": CPU}
    known = {id(tensor.held): tensor for tensor in there}
    found = function(*tree_map(_held, args), **tree_map(_held, kwargs))
    stays = (goal is not None and torch.device(goal).type == "cpu") or (goal is None and not there)
    if function is aten.copy_.default:
        stays = not isinstance(args[0], HeldElsewhere)
    return found if stays else tree_map(lambda value: _wrapped(value, known), found)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, HeldElsewhere) else value


def _wrapped(value: Any, known: dict[int, HeldElsewhere]) -> Any:
    if not isinstance(value, torch.Tensor) or isinstance(value, HeldElsewhere):
        return value
    return known.get(id(value)) if id(value) in known else HeldElsewhere(value)
