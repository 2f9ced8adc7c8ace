"""Batches on their way to a device: copied beside its work, their memory held until it has been read."""

from __future__ import annotations

import os
from collections import deque
from typing import Protocol

import torch
from torch import Tensor

from vlp.ground.types import Batch

# Steps that may be under way when a batch is sent: the batches of more would fill the memory of the device.
MOST_UNDER_WAY = 2
PORTABLE = 1  # cudaHostRegisterPortable: page-locked to every part of the process that talks to the device


class Mark(Protocol):
    """A place in a device's queue of work, as an event of CUDA is one."""

    def query(self) -> bool:
        """Return whether the device has passed it."""

    def synchronize(self) -> None:
        """Wait until it has."""


class DeviceLink(Protocol):
    """What reads a host's page-locked memory while the host goes on."""

    def lock(self, address: int, size: int) -> None:
        """Page-lock memory that others have allocated.

        Raises:
            OSError: It cannot be locked.
            RuntimeError: The device's driver refuses.
        """

    def unlock(self, address: int) -> None:
        """Undo `lock`."""

    def pin(self, values: Tensor) -> Tensor:
        """Return page-locked values: the same where they are locked already, or lie on the device."""

    def send(self, batch: Batch) -> tuple[Batch, Mark]:
        """Begin to copy page-locked values; return what will be the copy, and a mark behind it."""


class Uploads:
    """Copies batches to a device, and holds each until the device has read it.

    Whoever shares the memory of a batch with others, as the ring of the decoding processes does, gets it back once
    nobody holds the batch: not before its copy is whole.

    Args:
        device: Where batches go.
        link: Copies without waiting; None waits for every copy.
    """

    def __init__(self, device: torch.device, link: DeviceLink | None = None):
        self.device = device
        self.link = link
        self._held: deque[tuple[Mark, Batch]] = deque()  # one queue of work: what is first is passed first

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch on the device, where its copy may be under way still; all work of the device waits for it."""
        if self.link is None:
            return batch.to(self.device)
        self.let_go()
        moved, mark = self.link.send(batch)
        self._held.append((mark, batch))
        return moved

    @property
    def num_held(self) -> int:
        """Batches that the device may still read."""
        return len(self._held)

    def pin(self, batch: Batch) -> Batch:
        """Return a batch that can be copied without waiting: what is not page-locked yet is copied."""
        return batch if self.link is None else batch.on_device(self.link.pin)

    def let_go(self) -> None:
        """Forget the batches that the device has read."""
        while self._held and self._held[0][0].query():
            self._held.popleft()

    def wait_for_one(self) -> None:
        """Wait until the device has read the oldest batch that is held, if there is one."""
        if self._held:
            self._held[0][0].synchronize()
            self._held.popleft()

    def wait_for_all(self) -> None:
        """Wait until the device has read all batches."""
        while self._held:
            self.wait_for_one()


class CudaLink:
    """The way from page-locked memory to a CUDA device, on a stream of its own.

    The stream with the work of the device waits for a copy, the host does not. The host waits where two steps are under
    way already, so that at most three batches lie on the device however far it could run ahead.

    Args:
        device: Of the stream with the work.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._copies: torch.cuda.Stream | None = None  # made with the first copy
        self._steps: deque[torch.cuda.Event] = deque()

    def lock(self, address: int, size: int) -> None:
        """Page-lock memory that others have allocated.

        Raises:
            RuntimeError: The driver refuses; it does so where the kernel or the limits of the process do.
        """
        runtime = torch.cuda.cudart()
        if code := int(runtime.cudaHostRegister(address, size, PORTABLE)):
            self._forget_error()
            raise RuntimeError(f"{runtime.cudaGetErrorString(runtime.cudaError(code))}: error {code} of CUDA")

    def unlock(self, address: int) -> None:
        """Undo `lock`; what cannot be undone ends with the process."""
        if int(torch.cuda.cudart().cudaHostUnregister(address)):
            self._forget_error()

    def pin(self, values: Tensor) -> Tensor:
        """Return page-locked values: the same where they are locked already, or lie on the device."""
        return values.pin_memory() if values.device.type == "cpu" else values

    def send(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        """Begin to copy page-locked values; return what will be the copy, and an event behind it."""
        work = torch.cuda.current_stream(self._device)
        self._copies = self._copies or torch.cuda.Stream(self._device)
        self._steps.append(_mark(work))
        if len(self._steps) > MOST_UNDER_WAY:
            self._steps.popleft().synchronize()
        with torch.cuda.stream(self._copies):
            moved = batch.on_device(lambda values: values.to(self._device, non_blocking=True))
            mark = _mark(self._copies)
        work.wait_event(mark)

        def keep(values: Tensor) -> Tensor:  # its memory belongs to the stream of copies, which the work may outlast
            values.record_stream(work)
            return values

        return moved.on_device(keep), mark

    def _forget_error(self) -> None:
        """Let the runtime say now what it would say of the next kernel that is launched."""
        try:
            torch.ones(1, device=self._device).add_(1)
        except RuntimeError:
            return


def _mark(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event(blocking=True)  # a host that waits leaves its core to decoders
    event.record(stream)
    return event


def link_to(device: torch.device) -> DeviceLink | None:
    """Return what copies to a device without waiting; nothing where there is no such thing."""
    return CudaLink(device) if device.type == "cuda" else None


def unlock_in(process: int, link: DeviceLink, address: int) -> None:
    """Undo `lock` in the process that did it: a forked one has no part in it."""
    if os.getpid() == process:
        link.unlock(address)
