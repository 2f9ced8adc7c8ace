"""The way of pixels to the device: out of the memory that decoding processes write into."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.gpu.cases import Finding, Setting
from benchmarks.gpu.timing import MILLI, median, seconds_of, wait

SHAPE, TOY_SHAPE = (1, 1024, 224, 224, 3), (1, 16, 32, 32, 3)
SLOTS, ROUNDS = 4, 12
MOST_SECONDS = 6 * MILLI  # of a copy of `SHAPE`
MOST_ENQUEUED = 2 * MILLI  # of the host, which does not copy


def from_the_ring(setting: Setting) -> Finding:
    """Page-lock a ring, and send batch after batch out of it; slots come back and are filled anew meanwhile."""
    import torch

    from vlp.data.processes.ring import Ring
    from vlp.data.uploads import Uploads, link_to
    from vlp.ground.types import Batch

    device = torch.device(setting.device, 0) if setting.device == "cuda" else torch.device("cpu")
    shape = TOY_SHAPE if setting.is_toy else SHAPE
    ring, upload = Ring(SLOTS, shape[1], shape), Uploads(device, link_to(device))
    began = time.perf_counter()
    if upload.link is not None:
        ring.lock_pages(upload.link)
    locked = time.perf_counter() - began

    def batches() -> Iterator[tuple[int, Batch]]:
        for number in range(ROUNDS):
            upload.let_go()
            while (slot := ring.take()) is None:
                upload.wait_for_one()
            ring[slot][:] = np.uint8(number)  # as decoders do once they have the slot
            column = torch.zeros(shape[1], dtype=torch.int64)
            rows = column[None]
            draws = torch.zeros(1, shape[1], 1)
            batch = Batch(ring.lend(slot), rows[..., None], rows, draws, column, column, ())
            yield number, upload.pin(batch)

    problems, enqueued, wrong = [], [], []
    sent = batches()
    for number, batch in sent:
        if upload.link is not None and not batch.images.is_pinned():
            problems.append("the ring's pixels are not page-locked")
        began = time.perf_counter()
        moved = upload(batch)
        enqueued.append(time.perf_counter() - began)
        del batch
        wrong.append((moved.images != number).any())  # asked at the end, so that the host runs ahead
    wait(setting.device)
    problems += [f"batch {number} arrived with other pixels" for number, differs in enumerate(wrong) if bool(differs)]
    _, last = next(batches())
    seconds = median(seconds_of(lambda: upload(last), device=setting.device, repeats=8))
    upload.wait_for_all()
    numbers = {"seconds": seconds, "enqueue": median(enqueued), "lock": locked}
    shown = f"{seconds / MILLI:.1f} ms, the host {median(enqueued) / MILLI:.2f} ms; {locked:.2f} s to lock it"
    is_slow = seconds > MOST_SECONDS or median(enqueued) > MOST_ENQUEUED
    return Finding(shown, numbers, problems=tuple(dict.fromkeys(problems)), missed=is_slow and not setting.is_toy)
