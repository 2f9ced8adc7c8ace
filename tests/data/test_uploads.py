"""A device reads batches out of the ring when it comes to it; until then nobody writes there."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from itertools import islice

import pytest
import torch

from tests.data.late_link import LateLink
from tests.data.test_pool import equal
from tests.data.test_stream import take
from tests.forks import forked
from vlp.data.processes.ring import Ring
from vlp.data.uploads import CudaLink, Uploads, link_to
from vlp.ground.types import ON_DEVICE, VlpWarning

CPU = torch.device("cpu")
SHAPE = (1, 2, 8, 8, 3)
pytestmark = pytest.mark.usefixtures("small_chunks")


def uploaded(stream, count):
    with_device = map(stream.upload, stream.batches(0))
    found = list(islice(with_device, count))
    stream.upload.wait_for_all()
    return found


# ---------------------------------------- what is sent is held until it was read
def test_a_batch_is_held_until_the_device_has_passed_its_mark(open_stream, card):
    link = LateLink(lag=3)
    upload = Uploads(CPU, link)
    for batch in take(open_stream(card), 3):
        upload(batch)
    assert upload.num_held == 3
    link.marks[0].synchronize()
    upload.let_go()
    assert upload.num_held == 2 and not link.marks[1].is_passed
    upload.wait_for_one()
    assert upload.num_held == 1 and link.marks[1].is_passed and not link.marks[2].is_passed
    upload.wait_for_all()
    assert upload.num_held == 0 and link.marks[2].is_passed
    upload.wait_for_one()  # there is nothing to wait for


def test_a_mark_behind_one_that_is_not_passed_holds_its_batch_too(open_stream, card):
    link = LateLink(lag=2)
    upload = Uploads(CPU, link)
    for batch in take(open_stream(card), 2):
        upload(batch)
    link.marks[1].is_passed = True  # as an answer that comes between two questions
    upload.let_go()
    assert upload.num_held == 2


def test_a_slot_is_not_given_to_decoders_while_the_device_may_read_it(open_stream, card):
    link = LateLink(lag=1)
    upload = Uploads(CPU, link)
    (batch,) = take(open_stream(card, size=8, batch_size=2), 1)
    ring = Ring(1, 2, SHAPE)
    ring.lock_pages(link)
    pixels = ring.lend(ring.take())
    moved = upload(upload.pin(_showing(batch, pixels)))
    del pixels
    assert ring.take() is None and ring.num_lent == 1
    upload.let_go()
    assert ring.take() is None
    ring[0][:] = 5  # decoders would write this if they had the slot; the device sees it, for it has read nothing yet
    link.marks[0].synchronize()
    assert ring.take() is None  # the device is done, and nobody has asked it
    upload.let_go()
    assert ring.take() == 0
    assert (moved.images == 5).all()


def _showing(batch, pixels):
    places = iter([pixels])  # images come first
    return batch.on_device(lambda values: next(places, values))


# ---------------------------------------- the same numbers, whatever the device does when
@pytest.mark.parametrize("lag", [0, 1, 9])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_device_that_reads_late_sees_the_same_batches(open_stream, card, number, lag):
    link = LateLink(lag)
    found = uploaded(open_stream(card, workers=number, num_views=2, upload=Uploads(CPU, link)), 12)
    assert equal(found, take(open_stream(card, num_views=2), 12))
    if number:
        (size,) = {len(batch.images.flatten()) for batch in found}
        assert len(set(link.places)) <= 5 and size not in link.copied  # slots of the ring
    gc.collect()
    assert link.locked == {} and len(link.unlocked) == bool(number)


def test_batches_that_are_kept_on_the_host_stay_as_they_are(open_stream, card):
    stream = open_stream(card, workers=2, upload=Uploads(CPU, LateLink(9)))
    kept, moved = [], []
    for batch in islice(stream.batches(0), 12):
        kept.append(batch)
        moved.append(stream.upload(batch))
    stream.upload.wait_for_all()
    expected = take(open_stream(card), 12)
    assert equal(kept, expected) and equal(moved, expected)


def test_smaller_batches_of_several_views_are_sent_too(open_stream, card):
    settings = {"num_views": 2, "batch_size": 6, "first_batches": ((2, 3),)}
    stream = open_stream(card, workers=2, upload=Uploads(CPU, LateLink(1)), **settings)
    assert equal(uploaded(stream, 8), take(open_stream(card, **settings), 8))


# ---------------------------------------- locked once, unlocked once
def test_memory_stays_locked_as_long_as_anybody_looks_at_it(open_stream, card):
    link = LateLink()
    stream = open_stream(card, workers=2, upload=Uploads(CPU, link))
    batches = stream.batches(0)
    (batch,) = islice(batches, 1)
    (address,) = link.locked
    batches.close()
    gc.collect()
    assert link.unlocked == []
    del batch
    gc.collect()
    assert link.unlocked == [address] and link.locked == {}


def test_a_forked_process_does_not_unlock_what_is_not_its_own():
    ring, link = Ring(1, 2, SHAPE), LateLink()
    ring.lock_pages(link)

    def forget():
        nonlocal ring
        del ring
        gc.collect()
        return link.unlocked == []

    assert forked(forget)
    del ring
    gc.collect()
    assert len(link.unlocked) == 1


def refuse(address, size):
    raise OSError(12, "Cannot allocate memory")


def test_where_memory_cannot_be_locked_batches_are_copied_once_more_and_a_line_says_so(open_stream, card):
    link = LateLink(lag=9)
    link.lock = refuse
    stream = open_stream(card, workers=2, upload=Uploads(CPU, link))
    with pytest.warns(VlpWarning) as said:
        found = uploaded(stream, 9)
    (line,) = [str(warning.message) for warning in said]
    assert line.startswith("data.workers: the 1 MiB") and "Cannot allocate memory" in line and "ulimit -l" in line
    assert equal(found, take(open_stream(card), 9)) and found[0].images.nbytes in link.copied


def test_a_driver_that_is_not_there_is_one_that_refuses(open_stream, card):
    link = LateLink()
    link.lock = CudaLink(torch.device("cuda", 0)).lock  # no device is to be seen in these tests
    stream = open_stream(card, workers=1, upload=Uploads(CPU, link))
    with pytest.warns(VlpWarning, match=r"cannot be page-locked \(\S+"):
        found = uploaded(stream, 3)
    assert equal(found, take(open_stream(card), 3))


# ---------------------------------------- CUDA
def test_only_cuda_reads_memory_of_the_host():
    assert link_to(CPU) is None and link_to(torch.device("meta")) is None
    assert isinstance(link_to(torch.device("cuda", 0)), CudaLink)


class Told:
    """A stream, or an event: writes down what it is told."""

    def __init__(self, story, name):
        self.story, self.name = story, name

    def __getattr__(self, verb):
        return lambda *others: self.story.append(" ".join([self.name, verb, *(other.name for other in others)]))


def test_work_waits_for_a_copy_and_the_host_for_a_step_long_before(open_stream, card, monkeypatch):
    """What the link tells streams and events, in order; a GPU alone can say that they obey."""
    story, numbers = [], iter(range(99))
    work, copies = Told(story, "work"), Told(story, "copies")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: work)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: copies)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(story.append(f"on {stream.name}")))
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: Told(story, f"event {next(numbers)}"))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: story.append(f"kept for {stream.name}"))
    link = CudaLink(CPU)
    (batch,) = take(open_stream(card), 1)
    for _ in range(3):
        moved, mark = link.send(batch)
    sent = ["on copies", "event 5 record copies", "work wait_event event 5", *["kept for work"] * len(ON_DEVICE)]
    assert story[-len(sent) - 2 :] == ["event 4 record work", "event 0 synchronize", *sent]
    assert "event 2 synchronize" not in story and mark.name == "event 5" and equal([moved], [batch])


NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a CUDA device")


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("number", [1, 3])
def test_a_gpu_reads_the_ring_itself(open_stream, card, number):
    device = torch.device("cuda", 0)
    link = CudaLink(device)
    stream = open_stream(card, workers=number, num_views=2, upload=Uploads(device, link))
    places, found = set(), []
    for batch in islice(stream.batches(0), 40):
        assert batch.images.is_pinned()
        places.add(batch.images.data_ptr())
        found.append(stream.upload(batch))
        with torch.cuda.stream(link._copies):
            torch.cuda._sleep(20_000_000)  # the next copy comes ten milliseconds late
    found = [batch.to(CPU) for batch in found]
    assert len(places) <= 5  # slots of the ring
    assert equal(found, take(open_stream(card, num_views=2), 40))


@pytest.mark.gpu
@NEEDS_CUDA
def test_a_gpu_that_may_not_lock_is_fed_as_before_and_remembers_no_error(open_stream, card):
    device = torch.device("cuda", 0)
    link = CudaLink(device)
    with pytest.raises(RuntimeError):
        link.lock(0, 0)
    assert int((torch.ones(3, device=device) + 1).sum()) == 6  # would raise the error of the call before
    link.lock = refuse
    stream = open_stream(card, workers=2, upload=Uploads(device, link))
    with pytest.warns(VlpWarning, match="cannot be page-locked"):
        found = [stream.upload(batch).to(CPU) for batch in islice(stream.batches(0), 9)]
    assert equal(found, take(open_stream(card), 9))
