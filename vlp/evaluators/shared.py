"""An encoder whose work is dealt to all processes, done once and kept for the tasks that follow."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Float32
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from vlp.evaluators.corruptions import Corruption
from vlp.evaluators.dataset import DataSource, EvaluationSet, Pixels, alter, open_set
from vlp.evaluators.overlay import Overlay
from vlp.ground import dist
from vlp.ground.cores import usable_cores
from vlp.ground.offers import offers
from vlp.ground.types import Captioner, Encoder, FeatureEncoder, RecipeError

Decoded = TypeVar("Decoded")
Found = TypeVar("Found")
NORM_TOLERANCE = 1e-3
LEAST_IMAGES, LEAST_TEXTS = 16, 64  # a forward of fewer short texts waits for the weights to come from memory
Shown = tuple[str, str, Pixels, Corruption | None, Overlay | None]


class Locator(Protocol):
    """A model that also says where in each image it finds what its caption says, in shares of width and height."""

    def locate_captions(self, images: Iterable[Image], captions: Sequence[str]) -> Float32[Tensor, "n 4"]: ...


class SharedEncoder:
    """Embed every image of a set once and every distinct text once, whichever tasks ask.

    Samples are dealt in whole chunks whose borders depend on the number of samples alone: the batches that the
    model sees, and with them the last bits of the embeddings, are the same for any number of processes.

    Embeddings are kept on the CPU, and handed out on the device of the model, where they are scored.

    Args:
        encoder: The model; the same weights on every process.
        progress: Show a bar on the main process.
    """

    def __init__(self, encoder: Encoder, *, progress: bool = False):
        self.encoder = encoder
        self.scale = encoder.scale
        self.progress = progress
        self.device = torch.device(getattr(encoder, "device", "cpu"))
        self._sets: dict[str, tuple[DataSource, EvaluationSet]] = {}
        self._images: dict[Shown, Tensor] = {}
        self._features: dict[Shown, Tensor] = {}
        self._different: dict[Shown, int] = {}
        self._texts: dict[str, Tensor] = {}
        self._listed: tuple[tuple[str, ...], Tensor] | None = None

    def showing(
        self,
        data: EvaluationSet,
        *,
        images: Float32[Tensor, "n d"] | None = None,
        texts: tuple[tuple[str, ...], Float32[Tensor, "t d"]] | None = None,
    ) -> SharedEncoder:
        """Return an encoder that gives these embeddings of a set, and all others as this one does.

        Args:
            images: Rows of its images.
            texts: What is asked for at once, and its rows: equal texts may have different ones.
        """
        other = copy.copy(self)
        other._images = self._images | ({} if images is None else {_key(data): images.cpu()})
        other._listed = texts
        return other

    def open(self, source: DataSource) -> EvaluationSet:
        """Return the set of a task, opened once however it is corrupted."""
        key = source.model_dump_json()
        if key not in self._sets:
            as_is = source.as_is()
            if as_is == source:
                self._sets[key] = (source, open_set(source))
            else:
                found = self.open(as_is)
                with dist.together():
                    self._sets[key] = (source, alter(found, source))
        return self._sets[key][1]

    def keep_sets(self, sources: Iterable[DataSource]) -> None:
        """Forget the sets, and the embeddings of their images, that none of these sources needs.

        Two tasks may read one set, declare different things of it, and share its embeddings; a probe also reads splits
        that `data` of its task does not name, and reads them clean, so all splits of a set stay, and of their corrupted
        images those that a source shows.
        """
        sources = list(sources)
        roots = {source.root for source in sources}
        shown = {(source.root, source.corruption) for source in sources} | {(root, None) for root in roots}
        self._sets = {key: kept for key, kept in self._sets.items() if kept[0].root in roots}
        needed = {_key(data) for kept, data in self._sets.values() if (kept.root, kept.corruption) in shown}
        for known in (self._images, self._features, self._different):
            for key in known.keys() - needed:
                del known[key]

    def images(self, data: EvaluationSet) -> Float32[Tensor, "n d"]:
        """Embed all images of a set, in its order; on `device`."""
        key = _key(data)
        if key not in self._images:
            self._images[key] = self._read_images(data, self.encoder.embed_images, is_unit=True)
        return self._images[key].to(self.device)

    def image_features(self, data: EvaluationSet) -> Float32[Tensor, "n w"]:
        """Return what the image tower knows before its projection, of all images of a set; of no unit norm.

        Raises:
            RecipeError: The model has no features before its projection.
        """
        if not offers(self.encoder, FeatureEncoder):
            raise RecipeError(
                f"features: a {type(self.encoder).__name__} gives embeddings alone; use features: projected"
            )
        key = _key(data)
        if key not in self._features:
            self._features[key] = self._read_images(data, self.encoder.image_features, is_unit=False)
        return self._features[key].to(self.device)

    def captions(self, data: EvaluationSet, writing: Any) -> list[str]:
        """Return a caption that the model writes for each image of a set, in its order.

        Raises:
            RecipeError: The model writes none.
        """
        model = self.encoder
        if not offers(model, Captioner):
            raise RecipeError(f"a {type(model).__name__} gives embeddings alone and writes no captions: name a CoCa")

        def write(indices: range) -> list[str]:
            return model.caption_images(decode_ahead(lambda index: data.decode(index)[0], indices), writing)

        parts = deal(len(data), LEAST_IMAGES, write, f"{data.folder.name}: captions", progress=self.progress)
        return [caption for part in parts for caption in part]

    def boxes(self, data: EvaluationSet) -> Float32[Tensor, "m 4"]:
        """Return where in its image the model finds what each caption of a set says, image by image; on the CPU.

        Returns:
            Left, top, right and bottom in shares of the image.

        Raises:
            RecipeError: The model writes no boxes.
        """
        model = self.encoder
        if not offers(model, Locator):
            raise RecipeError(
                f"a {type(model).__name__} gives embeddings alone and writes no boxes: name a run with "
                "model.decoder={type: locating}"
            )
        asked = [(index, caption) for index, listed in enumerate(data.captions) for caption in listed]

        def find(places: range) -> Tensor:
            images = decode_ahead(lambda place: data.decode(asked[place][0])[0], places)
            return model.locate_captions(images, [asked[place][1] for place in places])

        return torch.cat(deal(len(asked), LEAST_IMAGES, find, f"{data.folder.name}: boxes", progress=self.progress))

    def _read_images(
        self, data: EvaluationSet, read: Callable[[Iterable[Image]], Tensor], *, is_unit: bool
    ) -> Float32[Tensor, "n d"]:
        different: set[int] = set()

        def decode(index: int) -> Image:
            image, is_different = data.decode(index)
            if is_different:
                different.add(index)
            return image

        rows = self._split(
            lambda indices: read(decode_ahead(decode, indices)),
            len(data),
            LEAST_IMAGES,
            f"{data.folder.name}: images",
            is_unit=is_unit,
        )
        self._different[_key(data)] = len(set().union(*dist.gather_objects(different)))
        return rows

    def num_different(self, data: EvaluationSet) -> int | None:
        """Return how many images of a set have other pixels for training than for referees, once it is embedded."""
        files = _key(data)[:3]
        return next((count for shown, count in self._different.items() if shown[:3] == files), None)

    def texts(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]:
        """Embed texts; equal texts get the same row, bit for bit; on `device`."""
        if self._listed is not None and tuple(texts) == self._listed[0]:
            return self._listed[1].to(self.device)
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:

            def embed(indices: range) -> Tensor:
                return self.encoder.embed_texts([new[i] for i in indices])

            rows = self._split(embed, len(new), LEAST_TEXTS, "texts")
            self._texts.update(zip(new, rows, strict=True))
        return torch.stack([self._texts[text] for text in texts]).to(self.device)

    def _split(
        self, embed: Callable[[range], Tensor], size: int, least: int, label: str, *, is_unit: bool = True
    ) -> Tensor:
        def work(indices: range) -> Tensor:
            return _checked(embed(indices), len(indices), label, is_unit)

        return torch.cat(deal(size, least, work, label, progress=self.progress))


def deal(size: int, least: int, work: Callable[[range], Found], label: str, *, progress: bool = False) -> list[Found]:
    """Deal samples to all processes in chunks, and return on each of them what came of every chunk, in order.

    Args:
        size: How many samples there are.
        least: Samples of the smallest chunk.
        work: What is done with the places of a chunk; holds no collective, and its result can be pickled.
        label: What a bar on the main process is called, where `progress` asks for one.
    """
    chunk = chunk_size(size, least)
    starts = range(0, size, chunk)
    mine = starts[dist.rank() :: dist.world_size()]
    parts: dict[int, Found] = {}
    hidden = not (progress and dist.is_main())
    with dist.together(), tqdm(total=size, desc=label, disable=hidden, leave=False) as bar:
        for start in mine:
            indices = range(start, min(start + chunk, size))
            parts[start] = work(indices)
            bar.update(len(indices) * dist.world_size())
    gathered = {start: found for part in dist.gather_objects(parts) for start, found in part.items()}
    return [gathered[start] for start in starts]


def _key(data: EvaluationSet) -> Shown:
    """Return what sets have in common that show the same images."""
    return data.folder.root, data.sha256, data.pixels, data.corruption, data.overlay


def chunk_size(size: int, least: int) -> int:
    """Samples dealt at a time: small enough to share out a small set, large enough to fill a device."""
    return min(256, max(least, -(-size // 64)))


def decode_ahead(decode: Callable[[int], Decoded], indices: range) -> Iterator[Decoded]:
    """Yield decoded images in order, a few of them decoded ahead by threads (the codecs release the GIL)."""
    num_threads = min(8, usable_cores())
    left = iter(indices)
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque[Future[Decoded]] = deque(pool.submit(decode, i) for i in islice(left, 2 * num_threads))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(decode, i) for i in islice(left, 1))


def _checked(rows: Tensor, size: int, label: str, is_unit: bool) -> Tensor:
    rows = rows.detach().cpu().float()
    if rows.ndim != 2 or len(rows) != size:
        raise RecipeError(f"{label}: the model gave {tuple(rows.shape)} for {size} inputs")
    norms = rows.norm(dim=1)
    if not torch.isfinite(norms).all():
        raise RecipeError(f"{label}: the model's embeddings are not finite; its weights are broken")
    if is_unit and (norms - 1).abs().max() > NORM_TOLERANCE:
        raise RecipeError(f"{label}: the model's embeddings are not of unit norm ({float(norms.max()):.4f})")
    return rows
