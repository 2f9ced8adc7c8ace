"""The way of pixels to the device: out of the memory that decoding processes write into."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.gpu.cases import Finding, Setting
from benchmarks.gpu.timing import MILLI, median, seconds_of, wait

SHAPE, TOY_SHAPE = (1, 1024, 224, 224, 3), (1, 16, 32, 32, 3)
SLOTS, ROUNDS = 4, 12
MOST_SECONDS = 6 * MILLI  # of a copy of `SHAPE`
MOST_ENQUEUED = 2 * MILLI  # of the host, which does not copy
FILES, TOY_FILES = 256, 8
SIDE = 224
MOST_MEAN = 2.0  # in 255ths; decoders smooth chroma in different ways


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


def decoded(setting: Setting) -> Finding:
    """Decode photographs of 512 px on the device, cut views of 224 px, and hold them against those of the host."""
    import torch
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from vlp.data import Crop
    from vlp.data.pixels.crop import crop_views, rows_of
    from vlp.data.pixels.decode import open_picture
    from vlp.data.pixels.device_decode import DeviceDecoder, check_decodes
    from vlp.ground.randomness import Draws

    device = torch.device(setting.device, 0) if setting.device == "cuda" else torch.device("cpu")
    check_decodes(device)
    crop, files = Crop(SIDE, decoding="exact"), []
    photographs = [Image.fromarray(pixels).resize((512, 384)) for pixels in load_sample_images().images]
    for number in range(TOY_FILES if setting.is_toy else FILES):
        file = io.BytesIO()
        photographs[number % len(photographs)].save(file, "JPEG", quality=95, subsampling="4:2:0")
        files.append(file.getvalue())
    expected, rows = [], []
    began = time.perf_counter()
    for number, data in enumerate(files):
        (pixels,), cuts = crop_views(open_picture(data), [(crop, Draws(number))])
        expected.append(torch.from_numpy(pixels))
        rows.append(rows_of(cuts))
    on_host = time.perf_counter() - began
    shown = torch.zeros(1, len(files), SIDE, SIDE, 3, dtype=torch.uint8, device=device)
    decoder, sent = DeviceDecoder(device, (crop,)), {row: bytearray(data) for row, data in enumerate(files)}
    cuts = np.stack(rows, axis=1)
    bad = decoder(sent, cuts, shown)
    seconds = median(seconds_of(lambda: decoder(sent, cuts, shown), device=setting.device, repeats=3))
    errors = (shown[0].cpu().int() - torch.stack(expected).int()).abs()
    mean, most = float(errors.float().mean()), int(errors.max())
    problems = [f"picture {row}: {error.detail}" for row, error in bad.items()]
    problems += [f"pixels differ by {mean:.2f} of 255 on average"] if mean > MOST_MEAN else []
    broken = {0: bytearray(files[0]), 1: bytearray(files[1][: len(files[1]) // 2])}  # one of them ends too early
    left = decoder(broken, cuts, shown)
    problems += ["a whole picture beside a broken one was lost"] if 0 in left else []
    notes = [] if 1 in left else ["it decodes a picture that ends too early, which is why none is left to it"]
    rate = len(files) / seconds
    words = f"{rate:,.0f} pictures/s, one core of the host {len(files) / on_host:,.0f}; differ by {mean:.3f} of 255"
    numbers = {"per_second": rate, "host_per_second": len(files) / on_host, "mean": mean, "most": most}
    return Finding(f"{words}, at most {most}", numbers, problems=tuple(problems), notes=tuple(notes))
