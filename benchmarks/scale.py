"""What does one rank of a large job cost before it has a model: a thousand ranks and a hundred thousand shards.

    python -m benchmarks.scale
    python -m benchmarks.scale --quick --to runs/try

The code of a run, without towers: cards, shards and their indices, order, batches, counts of faults, checkpoints. The
shards are real files of two pairs each; where only sizes matter they count as a thousand. Ranks are tried one after the
other, each in a process of its own that has read nothing before. Asked:

- is an epoch of the order complete, and do the ranks' slices make up each batch, equally large;
- do start and memory of a rank, and the time of a sample, depend on how many ranks there are;
- how long does it take from any position of a long run to the first batch;
- what do the counts of all ranks cost on their way into a checkpoint.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import resource
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.dated_report import write_page
from benchmarks.quick import add_quick, settle
from benchmarks.tables import markdown
from vlp.data import Captions, Card, Crop, SampleSet, Views
from vlp.data.batches import Decoder, LocalBatches
from vlp.data.faults import Faults
from vlp.data.order.batch_sizes import BatchSizes
from vlp.data.order.mixture import Ingredient, Mixture
from vlp.data.order.shuffle import Order, Shuffle
from vlp.data.order.timetable import Ramp, Timetable
from vlp.data.order.windows import Windows
from vlp.data.pixels.decode import MOST_BYTES, MOST_PIXELS
from vlp.ground.randomness import Draws
from vlp.run import checkpoint
from vlp.towers.tokenizers import ClipTokenizer

PAIRS_OF_A_FILE = 2
LOCAL_SIZE = 64  # pairs of a rank in one batch
WINDOW = 64  # shards
SHARES = (0.5, 0.3, 0.2)
CHUNK = 1 << 20  # positions at a time
POSITIONS = 20
SEED = 11
RESUME_LIMIT = 1.0  # seconds
FLAT = 1.25  # times what a rank of a small job takes
REASONS = ("bad_image", "missing_image", "missing_caption", "shard_error")


@dataclass(frozen=True)
class Rank:
    """What one process measured of itself.

    Args:
        start: Processor seconds from a card to batches.
        megabytes: That this took.
        order: Processor microseconds for one sample's place in the order.
        batch: Processor microseconds for one sample of a batch: read, decoded, cropped, worded, tokenised.
        resumes: Seconds from a position to the first batch and the first hundred shards ahead.
    """

    rank: int
    world_size: int
    start: float
    megabytes: float
    order: float
    batch: float
    resumes: list[float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write a report; leave with 1 where a promise is broken."""
    parsed = settle(build_parser().parse_args(arguments))
    sizes = sizes_of(parsed.shards, parsed.samples)
    orders = {name: check_order(name, order, parsed.ranks) for name, order in orders_of(sizes).items()}
    with tempfile.TemporaryDirectory(dir=parsed.scratch) as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        card = write_files(Path(folder) / "shards", parsed.shards)
        say(f"{parsed.shards:,} files are written")
        indexed = measured(partial(open_files, card))
        say(f"indexed in {indexed:.1f} s")
        ranks = [measured(partial(try_rank, card, *each)) for each in places_of(parsed.ranks)]
        saved = measured(partial(save_counts, Path(folder), parsed.ranks))
    found = {"orders": orders, "indexed": indexed, "ranks": [asdict(rank) for rank in ranks], "checkpoint": saved}
    broken = broken_promises(orders, ranks)
    command = f"python -m benchmarks.scale --shards {parsed.shards} --ranks {parsed.ranks} --samples {parsed.samples}"
    page = write_page(parsed.to, "scale", "A large job without its towers", command, page_of(found, broken), found)
    say(str(page))
    sys.exit(1 if broken else 0)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--ranks", type=int, default=1024, help="of the largest job")
    parser.add_argument("--samples", type=int, default=1000, help="of a shard, where only sizes matter; on average")
    parser.add_argument("--scratch", type=Path, help="folder for the files, 10 kB each; default: the system's")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="folder of the report")
    add_quick(parser, shards=2000, ranks=64, samples=100)
    return parser


def say(text: str) -> None:
    """Tell about the progress."""
    print(text, file=sys.stderr, flush=True)


def measured(work: Callable[[], Any]) -> Any:
    """Return what comes of a piece of work in a process that has imported this module and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.scale"])
    with context.Pool(1) as pool:
        return pool.apply(work)


def sizes_of(num_shards: int, mean: int) -> NDArray[np.int64]:
    """Return unequal sizes of shards; some are empty."""
    return np.array([Draws(SEED, shard).integer(2 * mean + 1) for shard in range(num_shards)], dtype=np.int64)


def orders_of(sizes: NDArray[np.int64]) -> dict[str, Order]:
    """Return every kind of order over the same shards."""
    cuts = np.cumsum([round(len(sizes) / len(SHARES))] * (len(SHARES) - 1))
    ingredients, first_id, first_shard = [], 0, 0
    for part in np.split(sizes, cuts):
        ingredients.append(Ingredient(Windows(part, WINDOW, SEED), 1, first_id, first_shard))
        first_id, first_shard = first_id + int(part.sum()), first_shard + len(part)
    return {
        "all shuffled": Shuffle(int(sizes.sum()), SEED, len(sizes)),
        f"windows of {WINDOW} shards": Windows(sizes, WINDOW, SEED),
        f"{len(SHARES)} sources, {', '.join(map(str, SHARES))}": Mixture(
            ingredients, Timetable([Ramp(start=share) for share in SHARES], BatchSizes(LOCAL_SIZE)), SEED
        ),
    }


def check_order(name: str, order: Order, num_ranks: int) -> dict[str, Any]:
    """Go through an epoch and through the slices of some batches."""
    started = time.perf_counter()
    counts = np.zeros(order.num_samples, dtype=np.uint8)
    for start in range(0, order.num_samples, CHUNK):
        ids = order.samples_at(np.arange(start, min(start + CHUNK, order.num_samples)))[1]
        np.add.at(counts, ids, 1)
    seconds = time.perf_counter() - started
    batch_size = LOCAL_SIZE * num_ranks
    last = max(1, order.num_samples // batch_size)
    whole = True
    for number in (0, last // 2, last - 1):
        positions = np.arange(number * batch_size, (number + 1) * batch_size)
        slices = [order.samples_at(part)[1] for part in np.split(positions, num_ranks)]
        whole &= np.array_equal(np.concatenate(slices), order.samples_at(positions)[1])
    say(f"{name}: {order.num_samples:,} samples in {seconds:.1f} s")
    return {
        "samples": order.num_samples,
        "missing": int((counts == 0).sum()),
        "twice": int((counts > 1).sum()),
        "is_mixture": isinstance(order, Mixture),
        "slices_make_up_batches": bool(whole),
        "microseconds": 1e6 * seconds / order.num_samples,
    }


def write_files(folder: Path, num_shards: int) -> Card:
    """Write small shards; return their card."""
    folder.mkdir()
    for shard in range(num_shards):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for number in range(PAIRS_OF_A_FILE):
                for extension, data in (("jpg", picture(shard)), ("txt", f"pair {number} of shard {shard}".encode())):
                    member = tarfile.TarInfo(f"{shard:06d}{number}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return Card(name="many", shards="*.tar", folder=folder)


def picture(number: int) -> bytes:
    """Return a small JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (number % 256, number // 256 % 256, 128)).save(buffer, "jpeg")
    return buffer.getvalue()


def open_files(card: Card) -> float:
    """Open all shards for the first time, which writes their indices; return the seconds."""
    started = time.perf_counter()
    SampleSet({card.name: card})
    return time.perf_counter() - started


def places_of(num_ranks: int) -> list[tuple[int, int]]:
    """Return the ranks that are tried, the first, one in the middle and the last, each with the size of its job."""
    worlds = [world for world in (1, 32, num_ranks) if world <= num_ranks]
    ranks = {world: sorted({0, world // 2, world - 1}) for world in worlds}
    return [(rank, world) for world in dict.fromkeys(worlds) for rank in ranks[world]]


def try_rank(card: Card, rank: int, world_size: int) -> Rank:
    """Start one rank of a job, go to positions of a long run, and make batches."""
    torch.set_num_threads(1)
    before, started = resident(), time.process_time()
    samples = SampleSet({card.name: card})
    order = Windows(samples.sizes, WINDOW, SEED)
    views = Views((Crop(32),), Captions())
    batches = LocalBatches(
        samples,
        Decoder(samples, views, SEED, MOST_PIXELS, MOST_BYTES),
        ClipTokenizer(context_length=77),
        order,
        BatchSizes(LOCAL_SIZE * world_size),
        rank,
        world_size,
    )
    seconds, taken = time.process_time() - started, resident() - before
    batches[0]
    resumes, costs, ordered = [], [], []
    for place in range(POSITIONS):
        number = batch_of(order, batches.sizes.last, Draws(SEED, rank, place).integer(1_000_000))
        started = time.perf_counter()
        batches[number]
        list(islice(order.shards_from(number * batches.sizes.last), 100))
        resumes.append(time.perf_counter() - started)
        started = time.process_time()
        batches[number + 1]  # close by, as the next one of a run is
        costs.append(1e6 * (time.process_time() - started) / LOCAL_SIZE)
        started = time.process_time()
        order.samples_at(batches.positions(number + 1, 0, LOCAL_SIZE))
        ordered.append(1e6 * (time.process_time() - started) / LOCAL_SIZE)
    say(f"rank {rank} of {world_size}: started in {seconds:.2f} s")
    return Rank(rank, world_size, seconds, taken / 1e6, statistics.median(ordered), statistics.median(costs), resumes)


def batch_of(order: Order, batch_size: int, number: int) -> int:
    """Return the first whole batch of the epoch that a batch lies in: files of two pairs make short epochs.

    What an epoch costs on its first batch is part of a resume, and not of the batch that follows.
    """
    epoch = number * batch_size // order.num_samples
    return -(-epoch * order.num_samples // batch_size)


def resident() -> int:
    """Return the bytes that this process has allocated and uses."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def save_counts(folder: Path, num_ranks: int) -> dict[str, float]:
    """Add up the faults of all ranks, save them, and find the checkpoint again."""
    parts = []
    for rank in range(num_ranks):
        part = Faults(delivered=rank)
        part.counts.update({(f"source{n}", reason): rank + n for n in range(10) for reason in REASONS})
        parts.append(part)
    started = time.perf_counter()
    faults = Faults.together(parts)
    added = time.perf_counter() - started
    weights = {checkpoint.MODEL: {"scale": torch.zeros(())}}
    state = {"faults": faults.state_dict()}
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    started = time.perf_counter()
    checkpoint.save(run, step=1, position=1 << 40, weights=weights, training=state, keep=2)
    saved = time.perf_counter() - started
    started = time.perf_counter()
    found = checkpoint.latest(run)
    assert found is not None and found.position == 1 << 40
    again = Faults()
    again.load_state_dict(found.training()["faults"])
    assert again.total == sum(part.total for part in parts)
    return {"add": added, "save": saved, "find": time.perf_counter() - started}


def broken_promises(orders: Mapping[str, Mapping[str, Any]], ranks: Sequence[Rank]) -> list[str]:
    """Return what does not hold."""
    broken = []
    for name, order in orders.items():
        if not order["is_mixture"] and (order["missing"] or order["twice"]):
            broken.append(f"{name}: {order['missing']} samples missing, {order['twice']} twice")
        if not order["slices_make_up_batches"]:
            broken.append(f"{name}: the slices of the ranks are not the batch")
    slowest = max(seconds for rank in ranks for seconds in rank.resumes)
    if slowest > RESUME_LIMIT:
        broken.append(f"a resume takes {slowest:.2f} s")
    sizes = {rank.world_size for rank in ranks}
    smallest = min(sizes - {1}, default=1)  # the next batch of one rank alone lies in the shards of the last
    for quantity in ("start", "megabytes", "order", "batch"):
        few, many = (
            statistics.median(getattr(rank, quantity) for rank in ranks if rank.world_size == world)
            for world in (smallest, max(sizes))
        )
        if many > FLAT * few:
            broken.append(
                f"{quantity} grows with the number of ranks: {few:.3g} of {smallest}, {many:.3g} of {max(sizes)}"
            )
    return broken


def page_of(found: Mapping[str, Any], broken: Sequence[str]) -> list[str]:
    """Return the sections of the report."""
    orders = [["order", "samples of an epoch", "missing", "twice", "slices make up batches", "us per sample"]]
    for name, order in found["orders"].items():
        counted = ["as shared", "as shared"] if order["is_mixture"] else [str(order["missing"]), str(order["twice"])]
        whole = "yes" if order["slices_make_up_batches"] else "NO"
        orders.append([name, f"{order['samples']:,}", *counted, whole, f"{order['microseconds']:.2f}"])
    ranks = [["rank", "of", "start CPU s", "MB", "order CPU us", "batch CPU us", "resume ms, median", "slowest"]]
    for rank in found["ranks"]:
        times = [1e3 * seconds for seconds in rank["resumes"]]
        ranks.append(
            [
                str(rank["rank"]),
                str(rank["world_size"]),
                f"{rank['start']:.2f}",
                f"{rank['megabytes']:.0f}",
                f"{rank['order']:.1f}",
                f"{rank['batch']:.0f}",
                f"{statistics.median(times):.0f}",
                f"{max(times):.0f}",
            ]
        )
    saved = found["checkpoint"]
    return [
        "## Order",
        "An epoch of each order, from its first position to its last, and the slices of all ranks of three batches.",
        markdown(orders),
        "## Ranks",
        f"First opening of all shards, which writes their indices: {found['indexed']:.1f} s. From then on a rank "
        "starts and resumes like this, each in a fresh process; times of one sample in microseconds, memory beyond "
        "that of the imported program.",
        markdown(ranks),
        "## Checkpoints",
        "Milliseconds for the fault counts of all ranks: "
        + ", ".join(f"{work} {1e3 * seconds:.0f}" for work, seconds in saved.items()),
        "## Verdict",
        "\n".join(f"- {line}" for line in broken) or "Every promise holds.",
    ]


if __name__ == "__main__":
    main()
