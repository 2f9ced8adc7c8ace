"""Every collective of the project. With one process each function is the identity, so callers never ask."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as torch_dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlp.ground.types import RecipeError

Thing = TypeVar("Thing")
Group = torch_dist.ProcessGroup | None
# Renamed in torch 2.14.
_reduce_scatter = getattr(torch_dist, "reduce_scatter_single", None) or torch_dist.reduce_scatter_tensor
_all_gather = getattr(torch_dist, "all_gather_single", None) or torch_dist.all_gather_into_tensor
_set_timeout = getattr(torch_dist, "set_timeout", None) or torch_dist.distributed_c10d._set_pg_timeout


def is_on() -> bool:
    """Whether several processes work together."""
    return torch_dist.is_available() and torch_dist.is_initialized() and torch_dist.get_world_size() > 1


def world_size(group: Group = None) -> int:
    """Return the number of processes."""
    return torch_dist.get_world_size(group) if is_on() else 1


def rank(group: Group = None) -> int:
    """Return the number of this process, from 0."""
    return torch_dist.get_rank(group) if is_on() else 0


def local_world_size() -> int:
    """Return the number of processes of this machine, as the launcher says; of all where it says nothing."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def gather_on_machine(thing: Thing) -> list[Thing]:
    """Return a thing of every process of this machine, in rank order; called by all processes of a job."""
    own = machine()
    return [each for place, each in gather_objects((own, thing)) if place == own]


def machine() -> tuple[str, ...]:
    """Return what processes that share a machine's memory and cores have in common, and others have not."""
    boot = Path("/proc/sys/kernel/random/boot_id")  # tells machines of one name apart
    return platform.node(), boot.read_text() if boot.is_file() else "", str(rank() // local_world_size())


def is_main() -> bool:
    """Whether this process writes files and talks to people."""
    return rank() == 0


def set_timeout(seconds: float) -> None:
    """Let collectives raise that wait longer than this for another process."""
    if is_on():
        aside = group_aside() if group_aside.cache_info().currsize else None
        for group in {torch_dist.group.WORLD, *(each for each in (_host_group(), aside) if each is not None)}:
            _set_timeout(timedelta(seconds=seconds), group)


class ArrivingRows:
    """Equally many rows of every process in rank order, on their way; those of this process are there.

    Args:
        own: This process's.
        everyones: Where all of them arrive; not to be read before `wait` returned them.
        own_places: Where this process's lie among them.
        on_the_way: What to wait for.
    """

    def __init__(self, own: Tensor, everyones: Tensor, own_places: slice, on_the_way: torch_dist.Work | None):
        self.own, self.everyones, self.own_places = own, everyones, own_places
        self._on_the_way = on_the_way

    def wait(self) -> Tensor:
        """Return all of them; an accelerator waits, not this program."""
        if self._on_the_way is not None:
            self._on_the_way.wait()
            self._on_the_way = None
        return self.everyones

    def at(self, places: slice) -> Tensor:
        """Return some of them; waits only for those of others."""
        first = self.own_places.start
        if first <= places.start and places.stop <= self.own_places.stop:
            return self.own[places.start - first : places.stop - first]
        return self.wait()[places]


def start_gathering(rows: Tensor, group: Group = None) -> ArrivingRows:
    """Send rows to every process, and return without waiting for theirs; carries no gradient."""
    rows = rows.detach().contiguous()
    count = world_size(group)
    if count == 1:
        return ArrivingRows(rows, rows, slice(0, len(rows)), None)
    everyones = rows.new_empty(count * len(rows), *rows.shape[1:])
    on_the_way = _all_gather(everyones, rows, group=group, async_op=True)
    first = rank(group) * len(rows)
    return ArrivingRows(rows, everyones, slice(first, first + len(rows)), on_the_way)


def all_gather_rows(rows: Tensor, group: Group = None) -> Tensor:
    """Concatenate equally many rows of every process in rank order; carries no gradient."""
    return start_gathering(rows, group).wait()


def all_reduce_sum(value: Tensor, group: Group = None) -> Tensor:
    """Return the sum over processes; carries no gradient."""
    value = value.detach().clone()
    if world_size(group) > 1:
        torch_dist.all_reduce(value, group=group)
    return value


def total(local: Tensor, group: Group = None) -> Tensor:
    """Return the sum over processes, the same everywhere; gradients flow to every process."""
    return local if world_size(group) == 1 else _Total.apply(local, group)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return all_reduce_sum(local, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return all_reduce_sum(gradient, ctx.group), None


def all_reduce_max(value: Tensor, group: Group = None) -> Tensor:
    """Return the largest value over processes; carries no gradient."""
    value = value.detach().clone()
    if world_size(group) > 1:
        torch_dist.all_reduce(value, op=torch_dist.ReduceOp.MAX, group=group)
    return value


def all_reduce_log_sum_exp(value: Tensor, group: Group = None) -> Tensor:
    """Return the log-sum-exp over processes, entry by entry; carries no gradient."""
    if world_size(group) == 1:
        return value.detach().clone()
    largest = all_reduce_max(value, group)
    finite = largest.where(largest != -torch.inf, 0)
    return all_reduce_sum((value - finite).exp(), group).log() + finite


def reduce_scatter_rows(rows: Tensor, group: Group = None) -> Tensor:
    """Return this process's part of the sum over processes of everyone's rows; carries no gradient."""
    size = len(rows) // world_size(group)
    if world_size(group) == 1:
        return rows.detach()
    part = torch.empty_like(rows[:size])
    _reduce_scatter(part, rows.detach().contiguous(), group=group)
    return part


def average_gradients(parameters: Iterable[Tensor], group: Group = None) -> None:
    """Replace gradients by their mean over processes, for parameters that no wrapper looks after."""
    if world_size(group) == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            torch_dist.all_reduce(parameter.grad, group=group)
            parameter.grad /= world_size(group)


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor that may be sharded (a `DTensor`); all of it where it is not.

    Not every kernel of every torch knows sharded tensors; what works element by element need not.
    """
    to_local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def any_process(flag: bool) -> bool:
    """Whether the flag is set on at least one process; the same answer everywhere, without waiting for a device."""
    return bool(all_reduce_max(torch.tensor(float(flag)), _host_group()).item()) if is_on() else flag


def largest(number: int, group: Group = None) -> int:
    """Return the largest of all processes' numbers; the same answer everywhere, without waiting for a device."""
    return int(all_reduce_max(torch.tensor(number), group or _host_group()).item()) if is_on() else number


def any_equal(numbers: Tensor, group: Group = None) -> bool:
    """Whether two of all processes' numbers, equally many on each, are equal; the same answer everywhere.

    Numbers on the CPU travel without waiting for any other device.
    """
    if is_on():
        numbers = all_gather_rows(numbers, group or _host_group())
    ordered = numbers.sort().values
    return bool((ordered[1:] == ordered[:-1]).any())


def gather_objects(thing: Thing) -> list[Thing]:
    """Return every process's object in rank order, on every process (small, picklable objects)."""
    if not is_on():
        return [thing]
    things: list[Any] = [None] * world_size()
    torch_dist.all_gather_object(things, thing, group=_host_group())
    return things


def broadcast_object(thing: Thing, group: Group = None) -> Thing:
    """Return the main process's object on every process."""
    if not is_on():
        return thing
    box = [thing]
    torch_dist.broadcast_object_list(box, src=0, group=group or _host_group())
    return box[0]


def on_main(action: Callable[[], Thing], group: Group = None) -> Thing:
    """Do something that holds no collective on the main process alone; every process gets what came of it.

    Args:
        group: Of all processes, to talk in; threads that talk at the same time need one each.

    Raises:
        Exception: What `action` raised; the other processes raise its words, as a RecipeError where it is one and
            as a RuntimeError otherwise.
    """
    result, failure = None, None
    if is_main():
        try:
            result = action()
        except Exception as error:
            failure = error
    result, said = broadcast_object((result, _said(failure)), group)
    if failure is not None:
        raise failure
    if said is not None:
        raise said
    return cast(Thing, result)


@contextmanager
def together() -> Iterator[None]:
    """Run the block, which must hold no collective, on every process: a failure of one is a failure of all.

    Raises:
        RuntimeError: Another process failed in the block; carries its words (a RecipeError where it raised one, a
            torch.OutOfMemoryError where it had no memory left). An own failure is raised as it is.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    told = gather_objects(_said(failure))
    if failure is not None:
        raise failure
    for said in told:
        if said is not None:
            raise said


def _said(error: Exception | None) -> Exception | None:
    """Return what other processes raise for an error of this one: its words, as not every error can travel."""
    if error is None:
        return None
    if isinstance(error, RecipeError):
        return RecipeError(f"process {rank()}: {error}")
    if isinstance(error, torch.OutOfMemoryError):
        return torch.OutOfMemoryError(f"process {rank()}: {error}")
    return RuntimeError(f"process {rank()}: {type(error).__name__}: {error}")


def barrier() -> None:
    """Wait for every process."""
    if is_on():
        torch_dist.barrier(group=_host_group())


def leave() -> None:
    """Take this process out of its groups, whose threads then end; nothing where there is none."""
    if torch_dist.is_available() and torch_dist.is_initialized():
        torch_dist.destroy_process_group()
        _host_group.cache_clear()
        group_aside.cache_clear()
        gc.collect()  # a wrapped model is part of a circle, and its threads end with the last who holds their group


@cache
def group_aside() -> Group:
    """Return a group of all processes, through the CPU, in which a thread talks beside the main one.

    All processes must ask for it at the same time when they first do.
    """
    return cast(Group, torch_dist.new_group(backend="gloo")) if is_on() else None


@cache
def _host_group() -> Group:
    """Return a group that speaks through the CPU: what flags and objects travel in, whatever device computes."""
    if torch_dist.get_backend() == "gloo":
        return None
    return cast(Group, torch_dist.new_group(backend="gloo"))
