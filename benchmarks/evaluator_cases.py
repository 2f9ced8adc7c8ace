"""What `bench_evaluators` measures; each case runs in a process of its own and returns plain numbers."""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from PIL import Image
from torch import Tensor

from vlp.curate.pack_set import SetOptions, pack_set
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.layout import read_lines
from vlp.evaluators.probes.logistic import LabelledRows
from vlp.evaluators.probes.penalties import fit_exactly, hold_out, search_penalty
from vlp.evaluators.prompts import ClassPrompts, class_embeddings, fill
from vlp.evaluators.retrieval import retrieve
from vlp.evaluators.shared import SharedEncoder
from vlp.ground import dist
from vlp.ground.paths import find_file
from vlp.towers.dual import DualEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.open_clip import OpenClipImage, OpenClipText

PEER_PACKAGE = "clip-benchmark==1.6.2"
MODEL = "ViT-B-32"
DIMENSION = 512
BATCH = 64
RECALL_AT = (1, 5, 10)
Numbers = dict[str, float]


def retrieval(images: int, texts: int) -> Numbers:
    """Search in both directions, every metric; the embeddings are there already."""
    rows, captions, owners = draw_pairs(images, texts)
    return measured(lambda: retrieve(rows, captions, owners, RECALL_AT))


def peer_retrieval(images: int, texts: int) -> Numbers:
    """Let CLIP_benchmark search the same embeddings; its model gives them back as they are."""
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate

    rows, captions, owners = draw_pairs(images, texts)
    listed = [torch.nonzero(owners == image).flatten().tolist() for image in range(images)]
    batches = [
        (rows[start : start + BATCH], [listed[image] for image in range(start, min(start + BATCH, images))])
        for start in range(0, images, BATCH)
    ]
    with silent():
        return measured(lambda: evaluate(GivenEmbeddings(captions), batches, torch.tensor, "cpu", False, RECALL_AT))


class GivenEmbeddings:
    """A model whose images are embeddings and whose tokens are numbers of captions."""

    def __init__(self, captions: Float32[Tensor, "m d"]):
        self.captions = captions

    def encode_image(self, images: Float32[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
        """Return what came."""
        return images

    def encode_text(self, tokens: Int64[Tensor, " n"]) -> Float32[Tensor, "n d"]:
        """Return the captions of these numbers."""
        return self.captions[tokens]


def classifier(classes: int, rounds: int) -> Numbers:
    """Build classifiers of 80 prompts per class with a text tower of 77 tokens, in turns with CLIP_benchmark's way.

    `tokens_saved` is how many times fewer tokens the texts have than their padded rows: the floor of the cost.
    """
    from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier

    model = new_model()
    names = read_lines(find_file("eval", "classnames/imagenet1k.txt"))
    templates = read_lines(find_file("eval", "prompts/imagenet_80.txt"))
    names = names[:: len(names) // classes][:classes]
    texts = fill(templates, names)
    _, lengths = model.tokenizer(list(texts))
    found: Numbers = {"tokens_saved": model.context_length * len(texts) / int(lengths.sum())}

    def tokens_of(batch: list[str]) -> Tensor:
        return pad(model.tokenizer(batch)[0], model.context_length)

    for number in range(rounds):
        start = time.perf_counter()
        prompts = ClassPrompts(texts, (len(templates),) * len(names))
        ours = class_embeddings(SharedEncoder(TowerEncoder(model)), prompts)
        middle = time.perf_counter()
        with silent():
            theirs = zero_shot_classifier(PeerModel(model), tokens_of, names, list(templates), "cpu", amp=False)
        found |= {f"ours_{number}": middle - start, f"peer_{number}": time.perf_counter() - middle}
        found["largest_difference"] = float((ours - theirs.T).abs().max())
    return found


class PeerModel:
    """The same towers as open_clip has them: every text at full length."""

    def __init__(self, model: DualEncoder):
        self.model = model

    def encode_text(self, tokens: Int64[Tensor, "n 77"]) -> Float32[Tensor, "n d"]:
        """Embed padded texts."""
        rows: Tensor = self.model.core.text(tokens)
        return rows


def probe(samples: int, classes: int) -> Numbers:
    """Search the penalty of a linear probe and fit it on everything; fit once with scikit-learn at that penalty."""
    from sklearn.linear_model import LogisticRegression  # and half of SciPy

    features, labels = draw_classes(samples, classes)
    rows = LabelledRows(features, labels, classes)
    start = time.perf_counter()
    away = torch.from_numpy(hold_out(labels.numpy(), 0.2, 0))
    learn, choose = (LabelledRows(features[part], labels[part], classes) for part in (~away, away))
    found = search_penalty(learn, choose)
    fitted = fit_exactly(rows, found.penalty, found.start)
    middle = time.perf_counter()
    peer = LogisticRegression(C=(2 if classes == 2 else 1) / found.penalty, max_iter=1000, tol=1e-6)
    peer.fit(features.numpy(), labels.numpy())
    end = time.perf_counter()
    own, ranked = fitted.rows(features)
    same = float(((own @ ranked.T).argmax(1).numpy() == peer.predict(features.numpy())).mean())
    return {"seconds": middle - start, "peer_seconds": end - middle, "penalty": found.penalty, "same": same}


def draw_classes(samples: int, classes: int) -> tuple[Float32[Tensor, "n d"], Int64[Tensor, " n"]]:
    """Return features of unit norm around centres, as far apart as an encoder has them, and their classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % classes
    centres = torch.randn(classes, DIMENSION, generator=generator)
    rows = centres[labels] + 3 * torch.randn(samples, DIMENSION, generator=generator) + 2
    return torch.nn.functional.normalize(rows, dim=1), labels


def processes(folder: str, texts: int) -> Numbers:
    """Embed the images of a set and texts, shared out over however many processes there are."""
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
    encoder = SharedEncoder(TowerEncoder(new_model()))
    data = open_set(DataSource(root=folder))
    captions = [f"a photo of thing number {number}" for number in range(texts)]
    dist.barrier()
    start = time.perf_counter()
    encoder.images(data)
    encoder.texts(captions)
    dist.barrier()
    return {"seconds": time.perf_counter() - start}


def make_set(folder: Path, images: int) -> Path:
    """Pack images of noise, 256 pixels a side, as an evaluation set; return it."""
    if not (folder / "set").exists():
        generator = np.random.default_rng(0)
        for number in range(images):
            path = folder / "images" / str(number % 2) / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(path)
        names = folder / "names.txt"
        names.write_text("noise\nmore noise\n")
        pack_set(folder / "images", folder / "set", SetOptions(class_names=str(names)), workers=1)
    return folder / "set"


def draw_pairs(images: int, texts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows of unit norm, captions near their images, and whose they are."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(images, DIMENSION, generator=generator), dim=1)
    owners = torch.arange(texts) * images // texts
    captions = torch.randn(texts, DIMENSION, generator=generator).mul_(1.5 / DIMENSION**0.5).add_(rows[owners])
    return rows, torch.nn.functional.normalize(captions, dim=1), owners


def new_model() -> DualEncoder:
    """Return a model with random weights: what it costs does not depend on them."""
    torch.manual_seed(0)
    return DualEncoder(OpenClipImage(name=MODEL), OpenClipText(name=MODEL)).eval()


def pad(tokens: Int64[Tensor, "n l"], length: int) -> Int64[Tensor, "n length"]:
    """Return rows of full length, as open_clip's tokenizer makes them."""
    return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]))


def measured(work: Callable[[], Any]) -> Numbers:
    """Return seconds, and by how many bytes the resident memory rose meanwhile at most."""
    before = reset_peak()
    start = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - start, "bytes": float(_status("VmHWM") - before)}


def reset_peak() -> int:
    """Forget the peak of the resident memory of this process, and return the present."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {name}; this needs Linux")
    return int(found[1]) * 1024


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep progress bars of others out of the output."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


CASES: dict[str, Callable[..., Numbers]] = {
    "retrieval": retrieval,
    "peer_retrieval": peer_retrieval,
    "classifier": classifier,
    "probe": probe,
    "processes": processes,
}
