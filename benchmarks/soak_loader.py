"""Read the shipped pairs for two hundred epochs with faults on the way: does memory grow, does a sample get lost?

    python -m benchmarks.soak_loader
    python -m benchmarks.soak_loader --epochs 10

The shards are copied and damaged: pictures cut in the middle, empty captions, captions that are no text, members that
are no pictures, a shard that ends early. While they are read, decoding processes are killed every few epochs, and the
stream is closed and opened again in the middle of an epoch, as a resumed run would. After every epoch: each place whose
sample is sound must hold that sample; the memory of all processes is measured.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import signal
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measure import PROC, tree_bytes
from benchmarks.quick import add_quick, settle
from benchmarks.tables import listed, markdown, percent, slug
from vlp.data import Captions, Card, Crop, SampleSet, Stream, Views
from vlp.data.order.shuffle import Shuffle
from vlp.ground import paths
from vlp.ground.provenance import commit, machine, versions
from vlp.ground.randomness import Draws
from vlp.ground.yaml import read_yaml
from vlp.towers.tokenizers import ClipTokenizer

IMAGE_SIZE = 96
BATCH_SIZE = 128
EPOCHS_TO_WARM_UP = 5
MOST_GROWTH = 0.05
OWN = ("Pss_Anon", "Pss_Shmem")  # what the processes allocate, without program files
EVERY_DAMAGED = 200  # one sample in so many
EPOCHS_BETWEEN_KILLS = 10
EPOCHS_BETWEEN_RESTARTS = 7
BUDGET = 0.05
Members = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Epoch:
    """What one epoch left.

    Args:
        lost: Places of sound samples that held another sample.
        megabytes: That all processes together have allocated, shared pages once.
    """

    number: int
    lost: int
    megabytes: float
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Damage a copy of the shards, read it again and again, write a report; leave with 1 where a promise is broken."""
    parsed = settle(build_parser().parse_args(arguments))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        card, damaged = damage(Path(folder))
        samples = SampleSet({card.name: card})
        stream = open_stream(samples, Path(folder) / "quarantine.jsonl", parsed.workers)
        say(f"{len(samples):,} samples, {len(damaged):,} of them damaged")
        epochs = list(soak(stream, Shuffle(len(samples), 0), damaged, parsed.epochs))
    about: dict[str, Any] = {
        "command": f"python -m benchmarks.soak_loader --epochs {parsed.epochs} --workers {parsed.workers}",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "samples": len(samples),
        "damaged": len(damaged),
        "workers": parsed.workers,
        "restarts": stream.restarts,
        "faults": {f"{reason}": count for (_, reason), count in sorted(stream.faults.counts.items())},
    }
    say(str(write_report(parsed.to, about, epochs)))
    if sum(epoch.lost for epoch in epochs) or growth(epochs) > MOST_GROWTH:
        sys.exit(1)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="folder of the report")
    add_quick(parser, epochs=8)
    return parser


def say(text: str) -> None:
    """Tell about the progress."""
    print(text, file=sys.stderr, flush=True)


def open_stream(samples: SampleSet, quarantine: Path, workers: int) -> Stream:
    """Return the stream that a training would read."""
    return Stream(
        samples,
        Views((Crop(IMAGE_SIZE),), Captions()),
        ClipTokenizer(context_length=77),
        batch_size=BATCH_SIZE,
        seed=0,
        workers=workers,
        bad_sample_budget=BUDGET,
        quarantine=quarantine,
    )


def soak(stream: Stream, order: Shuffle, damaged: set[int], num_epochs: int) -> list[Epoch]:
    """Read epoch after epoch, with deaths and new starts on the way."""
    sound = np.ones(order.num_samples, dtype=bool)
    sound[list(damaged)] = False
    batches = stream.batches(0)
    epochs, position = [], 0
    per_epoch = -(-order.num_samples // BATCH_SIZE)
    for number in tqdm(range(num_epochs), unit="epoch", disable=None):
        started, lost = time.monotonic(), 0
        for batch in islice(batches, per_epoch):
            planned = order.samples_at(np.arange(position, position + BATCH_SIZE))[1]
            lost += int((sound[planned] & (planned != batch.ids.numpy())).sum())
            position += BATCH_SIZE
        if number % EPOCHS_BETWEEN_KILLS == EPOCHS_BETWEEN_KILLS - 1:
            kill_one(number)
        if number % EPOCHS_BETWEEN_RESTARTS == EPOCHS_BETWEEN_RESTARTS - 1:
            next(batches)  # and forget it, like a run that dies behind its last checkpoint
            batches.close()
            batches = stream.batches(position)
        stream.check_budget()
        epochs.append(Epoch(number, lost, tree_bytes(os.getpid(), OWN) / 1e6, time.monotonic() - started))
    batches.close()
    return epochs


def kill_one(number: int) -> None:
    """Kill one of the decoding processes, as a system short of memory does."""
    children = [
        int(child) for task in (PROC / "self" / "task").iterdir() for child in (task / "children").read_text().split()
    ]
    if children:
        os.kill(sorted(children)[number % len(children)], signal.SIGKILL)


def damage(folder: Path) -> tuple[Card, set[int]]:
    """Write a damaged copy of the shipped shards; return its card, and the samples that cannot be used."""
    source = paths.find_card("data", "embedded")
    card = Card.from_mapping(read_yaml(source), source)
    damaged: set[int] = set()
    number = 0
    for place, path in enumerate(card.paths()):
        samples = read_samples(Path(str(path)))
        for k, members in enumerate(samples):
            if Draws(1, number).integer(EVERY_DAMAGED) == 0:
                samples[k] = spoil(members, number)
                damaged.add(number)
            number += 1
        target = write_samples(folder / f"{place:05d}.tar", samples)
        if place == 0:
            # The last sample is cut in two, and no sample at all: the index leaves it out.
            os.truncate(target, target.stat().st_size - tarfile.RECORDSIZE - 100)
            number = len(SampleSet({"cut": Card.from_mapping({"name": "cut", "shards": str(target)}, target)}))
            damaged = {k for k in damaged if k < number}
    found = {"name": "damaged", "shards": str(folder / "*.tar"), "captions": dict(card.captions)}
    return Card.from_mapping(found, folder / "damaged.yaml"), damaged


def read_samples(path: Path) -> list[Members]:
    """Return the members of each sample of a tar."""
    samples: dict[str, Members] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                samples.setdefault(member.name.partition(".")[0], []).append((member.name, file.read()))
    return list(samples.values())


def write_samples(path: Path, samples: Sequence[Members]) -> Path:
    """Write a tar."""
    with tarfile.open(path, "w") as tar:
        for name, data in (member for members in samples for member in members):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def spoil(members: Members, number: int) -> Members:
    """Return a sample that cannot be used, each in another way than the one before."""
    kinds = ("cut", "html", "empty", "no text", "no image")
    kind = kinds[number % len(kinds)]
    spoiled: Members = []
    for name, data in members:
        is_text = name.endswith(".txt")
        if not is_text and kind == "cut":
            data = data[: len(data) // 2]
        elif not is_text and kind == "html":
            data = b"<!DOCTYPE html><title>404</title>"
        elif not is_text and kind == "no image":
            continue
        elif is_text and kind == "empty":
            data = b"  \n"
        elif is_text and kind == "no text":
            data = b"\xff\xfe\xfd"
        spoiled.append((name, data))
    return spoiled


def growth(epochs: Sequence[Epoch]) -> float:
    """Return how far the memory of later epochs lies above that of the first ones after the warm-up."""
    settled = [epoch.megabytes for epoch in epochs[EPOCHS_TO_WARM_UP:]] or [epochs[-1].megabytes]
    tenth = max(1, len(settled) // 10)
    return statistics.median(settled[-tenth:]) / statistics.median(settled[:tenth]) - 1


def write_report(folder: Path, about: dict[str, Any], epochs: Sequence[Epoch]) -> Path:
    """Write what was found as a page and as JSON; return the page."""
    stem = f"soak_{slug(about['machine'])}_{about['date']}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(
        json.dumps({**about, "epochs": [asdict(epoch) for epoch in epochs]}, indent=1) + "\n", encoding="utf-8"
    )
    page = folder / f"{stem}.md"
    page.write_text(report_page(about, epochs), encoding="utf-8")
    return page


def report_page(about: dict[str, Any], epochs: Sequence[Epoch]) -> str:
    """Return the page."""
    settled = [epoch.megabytes for epoch in epochs[EPOCHS_TO_WARM_UP:]] or [epochs[-1].megabytes]
    lost, grown = sum(epoch.lost for epoch in epochs), growth(epochs)
    verdicts = [
        ["promise", "measured", "wanted", "verdict"],
        ["samples lost", f"{lost:,}", "0", verdict(lost == 0)],
        ["growth of memory", percent(grown), f"<= {percent(MOST_GROWTH)}", verdict(grown <= MOST_GROWTH)],
    ]
    table = [["epoch", "memory MB", "samples / s"]]
    table += [
        [str(epoch.number), f"{epoch.megabytes:,.0f}", f"{about['samples'] / epoch.seconds:,.0f}"]
        for epoch in epochs[:: max(1, len(epochs) // 20)]
    ]
    sections = [
        f"# Soak of the loader on {about['machine']}, {about['date']}",
        f"Commit `{about['commit']}`. Again: `{about['command']}`",
        f"{len(epochs)} epochs of {about['samples']:,} samples, {about['damaged']:,} of them damaged, with "
        f"{about['workers']} decoding processes; {about['restarts']} were killed and replaced. "
        f"{len(epochs) // EPOCHS_BETWEEN_RESTARTS} times the stream was closed in the middle of an epoch and opened "
        "again.",
        markdown(verdicts),
        f"Memory that all processes together had allocated after {EPOCHS_TO_WARM_UP} epochs: {min(settled):,.0f} to "
        f"{max(settled):,.0f} MB. Growth compares medians of the last and the first tenth of these epochs.",
        "Bad samples met: " + listed({reason: f"{count:,}" for reason, count in about["faults"].items()}) + ".",
        markdown(table),
        "## Versions",
        listed(about["versions"]),
    ]
    return "\n\n".join(sections) + "\n"


def verdict(is_kept: bool) -> str:
    """Return one word about a promise."""
    return "kept" if is_kept else "**broken**"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
