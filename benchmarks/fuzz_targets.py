"""Every parser that reads what strangers wrote: sound inputs to begin with, and how to feed it others.

A target may refuse its input, with the project's own errors, and must then have said so; anything else that it raises,
and whatever it hangs on, is a finding. Where more can be demanded, it is: an index never gives other samples than the
tar beside it, lines of metrics are those that were written or none, a table loses no row.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import socket
import struct
import tarfile
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from safetensors.torch import save

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.open_source import open_source
from vlp.data import Captions, Card, SampleSet
from vlp.data.faults import BadSampleError, tidy
from vlp.data.pixels.decode import decode_image
from vlp.data.shards.cards import load_card
from vlp.data.shards.download import Expected, RemoteStats, ask, download
from vlp.data.shards.index import SUFFIX, build_index
from vlp.data.shards.kept import read_kept, write_kept
from vlp.data.shards.remote import Remote, TransferError, version
from vlp.evaluators.base import load_task
from vlp.evaluators.dataset import DataSource, open_set
from vlp.ground.files import read_records, seal
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe
from vlp.run import checkpoint
from vlp.run.log import Log
from vlp.towers.sources import read_config
from vlp.towers.weight_files import read_tensors

REFUSALS = (RecipeError, BadSampleError, TransferError)
MOST_PIXELS = 1 << 20
NUM_KEPT = 100


class WrongError(Exception):
    """A parser that went on with something that its input does not say."""


@dataclass(frozen=True)
class Target:
    """A parser.

    Args:
        seeds: Makes sound inputs.
        feed: Hands an input to the parser, in an empty folder of its own.
    """

    seeds: Callable[[], list[bytes]]
    feed: Callable[[Path, bytes], None]


def try_one(target: Target, folder: Path, content: bytes) -> bool:
    """Feed a parser; return whether it took the input.

    Raises:
        Exception: Anything but the project's own refusals.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.feed(folder, content)
        except REFUSALS as refusal:
            if not str(refusal).strip():
                raise WrongError(f"a refusal that says nothing: {str(refusal)!r}") from refusal
            return False
        return True


def of_file(name: str, read: Callable[[str], object], seeds: list[bytes]) -> Target:
    """Return a target that reads one file.

    Args:
        read: Takes its path.
    """

    def feed(folder: Path, content: bytes) -> None:
        (folder / name).write_bytes(content)
        read(str(folder / name))

    return Target(lambda: seeds, feed)


def tar_of(members: Iterable[tuple[str, bytes]], style: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=style) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


# ---------------------------------------- shards
@cache
def picture(number: int = 0, kind: str = "PNG") -> bytes:
    """Return a small encoded image."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@cache
def shard(style: int = tarfile.USTAR_FORMAT, num_samples: int = 3) -> bytes:
    """Return a tar of a few samples."""
    members = []
    for number in range(num_samples):
        record = json.dumps({"caption": f"record {number}", "alt": ["a", "b"], "meta": {"deep": "c"}}).encode()
        name = f"{number:04d}" if style == tarfile.USTAR_FORMAT else f"{'long' * 40}/{number:04d}"
        parts = (("png", picture(number)), ("txt", b"caption %d" % number), ("json", record))
        members += [(f"{name}.{suffix}", data) for suffix, data in parts]
    return tar_of(members, style)


def tars() -> list[bytes]:
    """Return tars of each style, plain and packed."""
    plain = [shard(style) for style in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    return [*plain, gzip.compress(plain[0], mtime=0), bz2.compress(plain[0])]


def read_all(path: Path, captions: dict[str, float]) -> list[tuple[str, str, bytes]]:
    """Return key, caption and pixels of every sample; what is wrong with one stands in their place."""
    card = Card(name="fuzz", shards=str(path), captions=captions)
    samples = SampleSet({"fuzz": card})
    found = []
    for place in range(min(len(samples), 50)):
        sample = samples[place]
        try:
            caption = Captions().first(sample)
        except BadSampleError as fault:
            caption = fault.reason
        try:
            pixels = decode_image(sample.read_image(), MOST_PIXELS).tobytes()
        except BadSampleError as fault:
            pixels = fault.reason.encode()
        found.append((sample.shard.key(sample.place), caption, pixels))
    return found


def feed_tar(folder: Path, content: bytes) -> None:
    """Read whatever stands in a tar."""
    (folder / "00000.tar").write_bytes(content)
    read_all(folder / "00000.tar", {"txt": 1.0})


def indices() -> list[bytes]:
    """Return the index of a tar."""
    with scratch_file("00000.tar", shard()) as path:
        return [build_index(path), build_index(path, checksums=True)]


def feed_index(folder: Path, content: bytes) -> None:
    """Read a sound tar by an index: whatever the index says, samples are those of the tar."""
    path = folder / "00000.tar"
    path.write_bytes(shard())
    path.with_name(path.name + SUFFIX).write_bytes(content)
    expected = {(key, caption): pixels for key, caption, pixels in sound_samples()}
    for key, caption, pixels in read_all(path, {"txt": 1.0}):
        if len(pixels) > 30 and expected.get((key, caption)) != pixels:
            raise WrongError(f"another sample under the key {key!r}: {caption!r}")


@cache
def sound_samples() -> list[tuple[str, str, bytes]]:
    """Return what stands in the tar."""
    with scratch_file("00000.tar", shard()) as path:
        return read_all(path, {"txt": 1.0})


def kept_lists() -> list[bytes]:
    """Return lists of kept samples, with and without a note."""
    found = []
    for note in ("", "by a rule"):
        with scratch_file("kept", b"") as path:
            write_kept(path, NUM_KEPT, np.arange(0, NUM_KEPT, 3), note)
            found.append(path.read_bytes())
    return found


def feed_kept(folder: Path, content: bytes) -> None:
    """Read which samples are kept: increasing, and among those there are."""
    (folder / "kept").write_bytes(content)
    kept = read_kept(folder / "kept", NUM_KEPT)
    if len(kept) and (kept.min() < 0 or kept.max() >= NUM_KEPT or (np.diff(kept) <= 0).any()):
        raise WrongError(f"samples that are not there, or twice: {kept[:5]}")


def feed_caption_json(folder: Path, content: bytes) -> None:
    """Read captions of a JSON member, by plain, nested and missing keys."""
    members = [("a.png", picture()), ("a.json", content), ("a.txt", content)]
    (folder / "00000.tar").write_bytes(tar_of(members))
    for key in ("json.caption", "json.meta.deep", "json.alt", "json.nothing", "txt"):
        for _, caption, _ in read_all(folder / "00000.tar", {key: 1.0}):
            caption.encode()


RECORDS = [
    b'{"caption": "a red boat", "alt": ["one", "two"], "meta": {"deep": "three"}}',
    b'[{"caption": "a"}, {"caption": null}]',
    b'{"caption": {"en": "a"}, "alt": 7, "meta": [{"deep": "x"}, {"deep": ["y", 1.5]}]}',
]


# ---------------------------------------- cards, recipes, tasks
def feed_card(folder: Path, content: bytes) -> None:
    """Read a card, and look for its shards."""
    (folder / "card.yaml").write_bytes(content)
    (folder / "00000.tar").write_bytes(shard())
    SampleSet({"fuzz": load_card(str(folder / "card.yaml"))})


CARDS = [
    b"name: mine\nshards: 00000.tar\ncaptions: {txt: 1.0}\n",
    b"name: mine\nshards: ['{00000..00000}.tar']\ncaptions: {json.caption: 0.5, txt: 0.5}\nsamples: 3\n"
    b"images: [png]\ncounts: {00000.tar: 3}\nlicence: CC0\n",
]


RECIPES = [
    b"extends: smoke\nname: mine\ntrain: {steps: 3, samples: null, batch_size: 8}\nmodel: {freeze: [visual]}\n",
    b"extends: base\nname: a\nseed: 1\nobjective: {clip: {weight: {start: 1.0, end: 0.5}}, siglip: null}\n"
    b"data: {train: {embedded: {repeat: 2}}, views: {small: {count: 2}}}\noptimizer: {groups: {a: {match: [text]}}}\n",
]


TASKS = [
    b"version: 1\nevaluator: zero_shot\nmain_metric: acc1\ndata: {root: here, samples: 3, sha256: {test/0.tar: a}}\n",
    b"version: 2\nevaluator: retrieval\nmain_metric: mean_recall@1\ndata: {root: here}\nsettings: {recall_at: [1]}\n",
]


def evaluation_tars() -> list[bytes]:
    """Return a shard of an evaluation set."""
    kinds = (("png", picture), ("cls", lambda number: b"%d" % number))
    return [tar_of((f"{number}.{suffix}", make(number)) for number in range(2) for suffix, make in kinds)]


def feed_evaluation_set(folder: Path, content: bytes) -> None:
    """Open an evaluation set and decode its images."""
    (folder / "test").mkdir()
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("cat\ndog\n")
    (folder / "test" / "0.tar").write_bytes(content)
    found = open_set(DataSource(root=str(folder)))
    for place in range(len(found)):
        found.image(place)


# ---------------------------------------- tables
def table(suffix: str, seeds: list[bytes]) -> Target:
    """Return a target that packs the rows of a table."""

    def feed(folder: Path, content: bytes) -> None:
        (folder / "a.png").write_bytes(picture())
        (folder / f"table{suffix}").write_bytes(content)
        source = open_source(folder / f"table{suffix}", Columns())
        numbers = []
        for unit in source.units(4):
            for row in unit:
                numbers.append(row.number)
                try:
                    row.members(source.caption_keys)
                except BadSampleError:
                    continue
        if len(set(numbers)) < len(numbers):
            raise WrongError(f"two rows of one number: {numbers[:20]}")

    return Target(lambda: seeds, feed)


CSV = b'path,caption\na.png,"a red, boat"\na.png,\xc3\xa9t\xc3\xa9\nb.png,"two\nlines"\n'
JSONL = b'{"path": "a.png", "caption": "a"}\n{"path": "a.png", "caption": ["b", "c"]}\n{"path": "x", "caption": null}\n'
JSON_LIST = b'[{"image": "a.png", "caption": "a"}, {"image": "b.png", "caption": 7}]'
COCO = (
    b'{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "id": 5, "caption": "a cat"}, '
    b'{"image_id": 2, "id": 6, "caption": "b"}]}'
)


def parquets() -> list[bytes]:
    """Return a parquet file with images and captions."""
    images = [{"bytes": picture(number), "path": f"{number}.png"} for number in range(3)]
    rows = pyarrow.table({"image": images, "caption": ["a", None, "c"]})
    file = io.BytesIO()
    pyarrow.parquet.write_table(rows, file)
    return [file.getvalue()]


# ---------------------------------------- servers
def feed_answer(_: Path, content: bytes) -> None:
    """Ask a server whose whole answer is the input for a version, and for the file."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(2.0)

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(2.0)
                    connection.recv(65536)
                    connection.sendall(content)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    remote = Remote(f"http://127.0.0.1:{server.getsockname()[1]}/00000.tar", timeout_seconds=2.0)
    stats = RemoteStats("fuzz")
    try:
        ask(version, remote, tries=1, stats=stats)
        with scratch_file("copy", b"") as path:
            download(remote, path, Expected(), tries=1, stats=stats)
    finally:
        server.close()
        thread.join()


def answers() -> list[bytes]:
    """Return answers of a server."""
    body = shard()[:2048]
    length = b"Content-Length: %d\r\n" % len(body)
    return [
        b'HTTP/1.1 200 OK\r\nETag: "abc"\r\nAccept-Ranges: bytes\r\n' + length + b"\r\n" + body,
        b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 Slow\r\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 206 Part\r\nContent-Range: bytes 0-2047/2048\r\nLast-Modified: x\r\n" + length + b"\r\n" + body,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ]


# ---------------------------------------- what runs leave
def lines(records: list[dict[str, object]]) -> bytes:
    """Return lines with checksums."""
    return b"".join(seal(record) + b"\n" for record in records)


METRICS: list[dict[str, object]] = [{"step": step, "seconds": 1.5 * step, "loss": 1 / step} for step in range(1, 6)]
FAULTS: list[dict[str, object]] = [
    {"source": "s", "reason": "corrupt_image", "shard": "0.tar", "key": str(n), "id": n, "detail": "x"}
    for n in range(4)
]


def feed_metrics(folder: Path, content: bytes) -> None:
    """Go on behind lines of metrics: those that stay have right checksums."""
    path = folder / "metrics.jsonl"
    path.write_bytes(content)
    Log(path, num_steps=10, first_step=3, is_main=True, track=None).close()
    _, others = read_records(path, lambda _: True)
    if others:
        raise WrongError(f"{others} lines stay that have no right checksum")


def feed_quarantine(folder: Path, content: bytes) -> None:
    """Go on behind a list of faults."""
    path = folder / "quarantine.jsonl"
    path.write_bytes(content)
    tidy(path)


@cache
def saved() -> dict[str, bytes]:
    """Return the files of a sound checkpoint."""
    with scratch_file("x", b"") as path:
        found = checkpoint.save(
            path.parent / "run",
            step=3,
            position=24,
            weights={"model": {"a.weight": torch.arange(6.0), "b": torch.ones(2, 3)}},
            training={"optimizer": {"state": torch.ones(2)}, "step": 3},
            keep=2,
        )
        return {file.name: file.read_bytes() for file in found.path.iterdir()}


def checkpoint_file(name: str) -> Target:
    """Return a target that opens a checkpoint in which one file is the input; only the sound one may be taken."""

    def feed(folder: Path, content: bytes) -> None:
        place = folder / "run" / "checkpoints" / "step_00000003"
        place.mkdir(parents=True)
        for other, sound in saved().items():
            (place / other).write_bytes(content if other == name else sound)
        checkpoint.open_checkpoint(place)
        if content != saved()[name]:
            raise WrongError(f"{name} was changed, and the checkpoint passes for a whole one")

    return Target(lambda: [saved()[name]], feed)


def feed_lock(folder: Path, content: bytes) -> None:
    """Read the lock of a run."""
    (folder / checkpoint.LOCK).write_bytes(content)
    checkpoint.read_lock(folder)


def locks() -> list[bytes]:
    """Return a lock with its seal, and one without."""
    text = "extends: smoke\nname: mine\nprovenance: {commit: abc, data: {embedded: 12}}\n"
    return [checkpoint.seal(text).encode(), text.encode()]


# ---------------------------------------- weights and images
def weight_files() -> list[bytes]:
    """Return weights in each container."""
    state = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(3, dtype=torch.float16)}
    found = [save(state)]
    for new in (True, False):
        file = io.BytesIO()
        torch.save({"state_dict": state, "epoch": 3}, file, _use_new_zipfile_serialization=new)
        found.append(file.getvalue())
    return found


def feed_configuration(folder: Path, content: bytes) -> None:
    """Read the configuration of an export."""
    (folder / "open_clip_config.json").write_bytes(content)
    read_config(str(folder))


CONFIGURATIONS = [
    b'{"model_cfg": {"embed_dim": 16, "quick_gelu": true, "vision_cfg": {"layers": 1}, "text_cfg": {"width": 8}}, '
    b'"preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "size": 32}}'
]


def feed_image(_: Path, content: bytes) -> None:
    """Decode an image."""
    image = decode_image(content, MOST_PIXELS)
    if image.mode != "RGB" or image.width * image.height > MOST_PIXELS:
        raise WrongError(f"{image.mode}, {image.size}")


def images() -> list[bytes]:
    """Return images of each format, and odd ones."""
    odd = io.BytesIO()
    Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000).save(odd, "PNG")
    return [picture(0, kind) for kind in ("PNG", "JPEG", "WEBP")] + [odd.getvalue()]


# ---------------------------------------- all of them
@contextmanager
def scratch_file(name: str, content: bytes) -> Iterator[Path]:
    """Put a file into a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


TARGETS: dict[str, Target] = {
    "tar": Target(tars, feed_tar),
    "index": Target(indices, feed_index),
    "kept list": Target(kept_lists, feed_kept),
    "caption json": Target(lambda: RECORDS, feed_caption_json),
    "card": Target(lambda: CARDS, feed_card),
    "recipe": of_file("recipe.yaml", load_recipe, RECIPES),
    "task": of_file("task.yaml", load_task, TASKS),
    "evaluation set": Target(evaluation_tars, feed_evaluation_set),
    "csv": table(".csv", [CSV, CSV.decode().encode("utf-16"), CSV.replace(b",", b";")]),
    "tsv": table(".tsv", [CSV.replace(b",", b"\t")]),
    "jsonl": table(".jsonl", [JSONL]),
    "json": table(".json", [JSON_LIST, COCO]),
    "parquet": Target(parquets, table(".parquet", []).feed),
    "server": Target(answers, feed_answer),
    "metrics": Target(lambda: [lines(METRICS), b'{"step": 1, "seconds": 1}\n'], feed_metrics),
    "quarantine": Target(lambda: [lines(FAULTS)], feed_quarantine),
    "manifest": checkpoint_file(checkpoint.MANIFEST),
    "checkpoint weights": checkpoint_file("model.safetensors"),
    "checkpoint state": checkpoint_file(checkpoint.TRAINING),
    "lock": Target(locks, feed_lock),
    "weights": Target(weight_files, of_file("weights", lambda path: read_tensors(Path(path)), []).feed),
    "configuration": Target(lambda: CONFIGURATIONS, feed_configuration),
    "image": Target(images, feed_image),
}
INTERESTING = (
    *(b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b"'", b"{", b"[", b"}", b":", b",", b"\\"),
    *(
        b"9" * 5000,
        b"-1",
        b"1e999",
        b"NaN",
        b"null",
        b"true",
        b"\\ud800",
        b"\\u0000",
        b"../",
        b"/",
        b"~",
        b"%s",
        b"$HOME",
    ),
    *(b"[" * 3000, b"{" * 3000, b"&a [*a]", b"*", b"{0..999999999}", b"::", b"!!python/object:os.system"),
    *(struct.pack("<I", 2**32 - 1), struct.pack("<Q", 2**63), struct.pack(">I", 2**31), b"0" * 11 + b"\0"),
)
