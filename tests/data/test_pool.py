"""A process that decodes may die, hang or fail: no batch is lost, repeated or changed, and nothing is left behind."""

from __future__ import annotations

import ctypes
import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.data.test_stream import same, take
from tests.processes import run_processes
from tests.shards import LetterTokenizer, write_shards
from vlp.data import Captions, Card, Crop, SampleSet, Stream, Views
from vlp.data.faults import BadSampleError
from vlp.data.processes import pool
from vlp.data.processes.pool import Health, Pool
from vlp.ground.types import RecipeError

# Restarts are told as warnings; tests that want one say so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:a decoding process ended:RuntimeWarning"),
    pytest.mark.usefixtures("small_chunks"),
]


def crash():
    ctypes.string_at(0)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(3)


def hang():
    time.sleep(1e6)


class Cursed(Captions):
    """Captions of some samples do something to the process that words them; in the trainer they are merely bad."""

    def __init__(self, curse, *samples, once: Path | None = None, **settings):
        super().__init__(**settings)
        self.curse, self.samples, self.once, self.trainer = curse, samples, once, os.getpid()

    def __call__(self, sample, draws):
        if sample.id in self.samples:
            if self.once is None and os.getpid() == self.trainer:
                raise BadSampleError("killed_worker", "")
            if self.once is None or self.first_time(sample.id):
                self.curse()
        return super().__call__(sample, draws)

    def first_time(self, number):
        mark = self.once / str(number)
        if os.getpid() == self.trainer or mark.exists():
            return False
        mark.touch()
        return True


class WidePadding(LetterTokenizer):
    """Pads with a token that no text has."""

    pad_id = 999

    def __call__(self, texts):
        tokens, lengths = super().__call__(texts)
        return torch.where(torch.arange(tokens.shape[1]) < lengths[:, None], tokens, self.pad_id), lengths


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    yield
    gc.collect()
    assert not multiprocessing.active_children()


def equal(first, second):
    return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("number", [1, 3])
def test_chunks_add_up_to_the_batches_of_one_process(open_stream, card, number):
    def open_wide(workers):
        captions = Captions(separator=",", wording={"some": 1.0})  # of many lengths
        settings = {"batch_size": 7, "num_views": 2, "num_text_views": 2, "captions": captions}
        stream = open_stream(card, workers=workers, **settings)
        stream._batches.tokenizer = WidePadding()
        return stream

    alone = take(open_wide(0), 8)
    assert len({length for batch in alone for length in batch.lengths.flatten().tolist()}) > 3
    assert equal(alone, take(open_wide(number), 8))


def test_nothing_starts_before_the_first_batch_is_asked_for(open_stream, card):
    batches = open_stream(card, workers=2).batches(0)
    assert not multiprocessing.active_children()
    next(batches)
    assert len(multiprocessing.active_children()) == 2


def test_a_process_that_cannot_be_started_is_an_error_that_names_the_key(open_stream, card, monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(RecipeError, match=r"data\.workers: .*temporarily unavailable"):
        take(open_stream(card, workers=2), 1)


def test_spawned_processes_give_the_same_batches(open_stream, card):
    stream = open_stream(card)
    with Pool(stream._batches, Health(), workers=1, timeout=60, method="spawn") as pool:
        (packet,) = islice(pool.packets(1), 1)
    assert same(packet.batch, take(stream, 1, position=4)[0])


# ---------------------------------------- lending
def test_batches_that_are_let_go_share_a_few_places_in_memory(open_stream, card):
    places = {batch.images.data_ptr() for batch in islice(open_stream(card, workers=2).batches(0), 12)}
    assert len(places) <= pool.AHEAD + pool.MOST_LENT


def test_batches_that_are_kept_stay_as_they_are(open_stream, card):
    kept = take(open_stream(card, workers=2), 12)
    assert equal(kept, take(open_stream(card), 12))
    assert len({batch.images.data_ptr() for batch in kept}) == 12


def test_a_view_of_one_image_keeps_its_batch(open_stream, card):
    views = [batch.images[0, 1] for batch in islice(open_stream(card, workers=1).batches(0), 9)]
    assert all(torch.equal(a, b.images[0, 1]) for a, b in zip(views, take(open_stream(card), 9), strict=True))


# ---------------------------------------- deaths
@pytest.mark.parametrize("curse", [be_killed, leave, crash])
def test_a_process_that_dies_is_replaced_and_no_sample_is_lost_or_repeated(open_stream, tmp_path, card, curse):
    stream = open_stream(card, captions=Cursed(curse, 5, once=tmp_path), workers=2)
    with pytest.warns(RuntimeWarning, match=r"over sample 5 \(00000.tar: 000005\).*(SIG|exit code 3).*restart 1"):
        batches = take(stream, 9)
    assert equal(batches, take(open_stream(card), 9))
    assert stream.restarts == 1 and not stream.faults.counts


def test_a_process_that_is_killed_while_nobody_waits_is_replaced(open_stream, card):
    stream = open_stream(card, workers=2)
    batches = stream.batches(0)
    got = [next(batches)]
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    assert equal([*got, *islice(batches, 8)], take(open_stream(card), 9))
    assert stream.restarts == 2


@pytest.mark.parametrize("number", [1, 2])
def test_a_sample_that_always_kills_is_replaced_and_counted(open_stream, card, number):
    def open_cursed(**settings):
        return open_stream(card, captions=Cursed(be_killed, 5), **settings)

    stream, expected = open_cursed(workers=number), open_cursed()
    batches = take(stream, 9)  # two epochs
    assert equal(batches, take(expected, 9))
    assert 5 not in torch.cat([batch.ids for batch in batches])
    assert stream.faults.counts == expected.faults.counts == {("tiny", "killed_worker"): 2}
    assert stream.restarts == 2
    assert equal(batches[4:], take(open_cursed(workers=number), 5, position=16))  # a resumed run


def test_two_lethal_samples_in_one_chunk_are_both_found(open_stream, card, monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 18)
    settings = {"captions": Cursed(be_killed, 3, 11), "batch_size": 18}
    stream = open_stream(card, workers=1, **settings)
    assert equal(take(stream, 2), take(open_stream(card, **settings), 2))
    assert stream.restarts == 4 and stream.faults.counts == {("tiny", "killed_worker"): 4}


def test_a_set_of_nothing_but_lethal_samples_is_an_error_after_bounded_work(open_stream, card):
    stream = open_stream(card, captions=Cursed(be_killed, *range(18)), workers=1)
    with pytest.raises(RecipeError, match=r"data\.workers: 10 decoding processes ended"):
        take(stream, 1)
    assert stream.restarts == 10


def test_a_chunk_that_kills_for_no_reason_ends_the_run(open_stream, tmp_path, card, monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 18)
    stream = open_stream(card, captions=Cursed(be_killed, 1, 2, 12, once=tmp_path), workers=1, batch_size=18)
    with pytest.raises(
        RecipeError, match=r"data\.workers: 3 .*SIGKILL.*over.* 12 \(00001\.tar: 000012\).*train\.batch_size"
    ):
        take(stream, 1)


class CrashingTokenizer(LetterTokenizer):
    def __call__(self, texts):
        os._exit(1)


def test_a_death_between_samples_blames_none_of_them(open_stream, card):
    stream = open_stream(card, workers=1)
    stream._batches.tokenizer = CrashingTokenizer()
    with pytest.raises(RecipeError, match=r"data\.workers: 3 decoding processes ended, the last one with exit code 1"):
        take(stream, 1)
    assert stream.restarts == 3 and not stream._health.lethal


# ---------------------------------------- silence
def test_a_process_that_hangs_shows_its_stack_and_is_replaced(open_stream, tmp_path, card, capfd):
    stream = open_stream(card, captions=Cursed(hang, 5, once=tmp_path), workers=2, worker_timeout=0.5)
    with pytest.warns(RuntimeWarning, match=r"over sample 5 .*no sample finished in 0\.5 s"):
        batches = take(stream, 9)
    assert equal(batches, take(open_stream(card), 9))
    assert 'test_pool.py", line' in (said := capfd.readouterr().err) and "in hang" in said


def test_a_sample_that_always_hangs_is_replaced_and_counted(open_stream, card):
    settings = {"captions": Cursed(hang, 5)}
    stream = open_stream(card, workers=1, worker_timeout=0.5, **settings)
    assert equal(take(stream, 5), take(open_stream(card, **settings), 5))
    assert stream.faults.counts == {("tiny", "killed_worker"): 1}


def hang_deafly():
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    hang()


class SlowlyCursed(Cursed):
    """Takes a while over every other sample."""

    def __call__(self, sample, draws):
        if sample.id not in self.samples:
            time.sleep(0.1)
        return super().__call__(sample, draws)


def test_who_answered_while_another_was_replaced_is_left_alone(open_stream, tmp_path, card, monkeypatch):
    """To replace a deaf process takes as long as it is given to print its stack, longer than one may be silent."""
    monkeypatch.setattr(pool, "GRACE_SECONDS", 2.5)
    first = int(take(open_stream(card), 1)[0].ids[0])
    captions = SlowlyCursed(hang_deafly, first, once=tmp_path)
    stream = open_stream(card, captions=captions, workers=2, worker_timeout=0.5)
    with pytest.warns(RuntimeWarning, match="a decoding process ended"):
        take(stream, 9)
    assert stream.restarts == 1


# ---------------------------------------- errors
@pytest.mark.parametrize("bug", [KeyError("a bug"), FileNotFoundError("a bug"), RecipeError("a bug")])
def test_a_bug_reaches_the_trainer_with_its_traceback(open_stream, card, bug):
    def err():
        raise bug

    with pytest.raises(type(bug), match="a bug") as raised:
        take(open_stream(card, captions=Cursed(err, *range(18)), workers=2), 1)
    assert "in err\n" in raised.value.__notes__[0] and "in a decoding process" in raised.value.__notes__[0]
    assert not multiprocessing.active_children()


class UnsendableError(Exception):
    def __init__(self, first, second):
        super().__init__(first)


def raise_unsendable():
    raise UnsendableError("something", "rare")


def test_an_error_that_no_pipe_takes_is_told_all_the_same(open_stream, card):
    with pytest.raises(RuntimeError, match=r"in raise_unsendable(.|\n)*UnsendableError: something"):
        take(open_stream(card, captions=Cursed(raise_unsendable, *range(18)), workers=1), 1)


@pytest.mark.parametrize("number", [0, 2])
def test_nothing_but_bad_samples_is_an_error_after_bounded_work(open_stream, tmp_path, number):
    junk = {k: [(f"{k}.jpg", b"?"), (f"{k}.txt", b"text")] for k in range(20)}
    stream = open_stream(write_shards(tmp_path / "junk", 1, 20, replace=junk), workers=number)
    with pytest.raises(RecipeError, match="100 samples in a row are bad"):
        take(stream, 1)
    assert stream.faults.total == 100
    assert not multiprocessing.active_children()


# ---------------------------------------- ends
def test_signals_to_the_group_are_left_to_the_trainer(open_stream, card):
    stream = open_stream(card, workers=2)
    batches = stream.batches(0)
    first = next(batches)
    for process in multiprocessing.active_children():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(process.pid, number)
    assert equal([first, *islice(batches, 8)], take(open_stream(card), 9))
    assert stream.restarts == 0


@pytest.mark.parametrize("curse", [None, hang])
def test_closing_ends_all_processes_even_those_that_hang(open_stream, card, curse):
    captions = Cursed(curse, *range(8)) if curse else Captions()
    batches = open_stream(card, captions=captions, workers=2).batches(0)
    if curse is None:
        next(batches)
    else:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(Pool, "_wait", interrupt)
            next(batches)
    batches.close()
    assert not multiprocessing.active_children()


def interrupt(pool):
    raise InterruptedError


def test_an_iterator_that_is_dropped_ends_its_processes(open_stream, card):
    batches = open_stream(card, workers=2).batches(0)
    next(batches)
    del batches
    gc.collect()
    assert not multiprocessing.active_children()


def build(folder, captions=None, **settings):
    samples = SampleSet({"tiny": Card(name="tiny", shards="*.tar", folder=Path(folder))})
    settings = {"batch_size": 4, "seed": 0, "workers": 2, **settings}
    return Stream(samples, Views((Crop(8),), captions or Captions()), LetterTokenizer(), **settings)


SCRIPT = """
import multiprocessing, os, signal, sys
from itertools import islice
from tests.data.test_pool import Cursed, build, hang
*_, third = islice(build(sys.argv[1], workers=0).batches(0), 3)
batches = build(sys.argv[1], Cursed(hang, *third.ids.tolist())).batches(0)
kept = next(batches)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
"""


def run_script(folder, ending):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + ending, str(folder)], capture_output=True, text=True, timeout=120
    )


def is_running(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids, seconds=30):
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_running, pids))


# In these programs the first batch is good and the third hangs.
def test_a_program_that_ends_with_batches_in_hand_ends_quietly(card):
    done = run_script(card.folder, "")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(pids := done.stdout.split()) == 2 and wait_until_gone(pids)


def test_an_exception_in_the_trainer_ends_it_as_without_processes(card):
    done = run_script(card.folder, "raise SystemExit(75)")
    assert (done.returncode, done.stderr) == (75, "")


def test_a_trainer_that_is_killed_leaves_no_orphans(card):
    done = run_script(card.folder, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    assert len(pids := done.stdout.split()) == 2 and wait_until_gone(pids)


# ---------------------------------------- several trainers
def take_ids(rank, world_size, folder, count):
    stream = build(folder, batch_size=6, rank=rank, world_size=world_size)
    return [batch.ids.tolist() for batch in islice(stream.batches(0), count)]


@pytest.mark.processes
def test_two_trainers_with_two_processes_each_share_every_batch_of_a_single_shard(open_stream, tmp_path):
    card = write_shards(tmp_path / "one", 1, 20)
    first, second = run_processes(take_ids, 2, card.folder, 7)
    assert len(first) == len(second) == 7
    whole = [batch.ids.tolist() for batch in take(open_stream(card, batch_size=6), 7)]
    assert [a + b for a, b in zip(first, second, strict=True)] == whole
    assert sorted([number for ids in whole for number in ids][:20]) == list(range(20))


def test_the_rate_of_decoding_is_known_after_the_first_batch(open_stream, card):
    stream = open_stream(card, workers=2)
    assert stream.decode_rate == 0
    take(stream, 1)
    assert stream.decode_rate > 0
