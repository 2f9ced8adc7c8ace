"""For each image of a card, the captions of others that a model finds most alike: exact, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from vlp.data.faults import BadSampleError
from vlp.data.mined_captions import ABOUT, NONE, check_limits, check_one_card, write_mined
from vlp.data.samples import SampleSet
from vlp.data.shards.cards import load_card
from vlp.data.texts.captions import Captions
from vlp.embeddings.distinct_captions import UNKNOWN, DistinctCaptions
from vlp.embeddings.parts import WholeParts, claim_folder
from vlp.ground import dist, files
from vlp.ground.float32 import whole_float32
from vlp.ground.types import RecipeError
from vlp.run.launch import join_evaluation

MANIFEST = "mining.json"
PARTS = 8  # of images, which look at all captions together: these are read once for each stretch
ROWS = 1024  # images whose cosines with the captions of a part are in memory at a time
OF_EMBEDDINGS = ("model", "weights", "checksum", "data", "fingerprint", "samples")
Nearest = tuple[Float32[Tensor, "m k"], Int64[Tensor, "m k"]]


def _nothing() -> None:
    """Tell nobody."""


def mine(
    embeddings: Path, data: str, to: Path, *, count: int = 5, skip: int = 0, below: float | None = None
) -> dict[str, Any]:
    """Mine wrong captions for each image of a card; started anew, go on where it was stopped.

    Started by torchrun or `accelerate launch`, the processes share the work; the result is the same for any number.

    Args:
        embeddings: Folder of embeddings of images and texts of the card (`vlp embed`).
        data: Name or path of the card, which has all captions of each sample.
        to: Folder to write, for `data.captions.negatives.mined`.
        count: Captions for each image.
        skip: So many of the nearest are left out before.
        below: Only captions are taken whose cosine stays below this share of that of the image's own caption.

    Returns:
        What the folder says of itself.

    Raises:
        RecipeError: No such card, no whole embeddings of it, a limit that leaves nothing, or the folder holds
            something else.
    """
    check_limits(count, skip, below, "--")
    device = join_evaluation()
    with dist.together():
        card = load_card(data)
        samples = SampleSet({card.name: card})
    return mine_card(embeddings, samples, to, count=count, skip=skip, below=below, device=device)


def mine_card(
    embeddings: Path,
    samples: SampleSet,
    to: Path,
    *,
    count: int,
    skip: int,
    below: float | None,
    device: torch.device,
    captions: Captions | None = None,
    beat: Callable[[], None] = _nothing,
) -> dict[str, Any]:
    """Mine in the samples of one card, as `mine` does; called by all processes.

    Args:
        captions: Which texts are captions of a sample; None goes by the card.
        beat: Called whenever something is done.
    """
    with dist.together():
        parts = WholeParts(embeddings, "images", "texts")
        fingerprint = check_one_card(samples, "data.captions.negatives.mining")
        if (parts.manifest["fingerprint"], parts.manifest["samples"]) != (fingerprint, len(samples)):
            raise RecipeError(f"{embeddings} has embeddings of other samples than this card: embed it anew (vlp embed)")
    told = {name: parts.manifest.get(name) for name in OF_EMBEDDINGS} | {"skip": skip, "below": below}
    dist.on_main(partial(claim_folder, to, told | {"count": count}, MANIFEST))
    if not dist.on_main((to / ABOUT).exists):
        with dist.together():
            distinct = DistinctCaptions(parts)
            if not len(distinct):
                raise RecipeError(f"{embeddings} has no captions to mine in: not one sample could be read")
            miner = _Miner(parts, distinct, samples, captions or Captions(), count, skip, below, device, beat)
            miner.write_parts(to)
        dist.on_main(partial(_join, to, len(samples), count, distinct, told))
    return dist.on_main(lambda: json.loads((to / ABOUT).read_text(encoding="utf-8")))


def summary(told: Mapping[str, Any]) -> str:
    """Say in a line what was mined."""
    short = f"; {told['with_fewer']:,} have fewer" if told["with_fewer"] else ""
    return (
        f"{told['count']} captions of others mined for each of {told['images']:,} images{short}; mean cosine "
        f"{told['cosine_of_mined']:.3f}, with their own {told['cosine_of_own']:.3f}"
    )


class _Miner:
    """What each process needs for its share of the images."""

    def __init__(
        self,
        parts: WholeParts,
        distinct: DistinctCaptions,
        samples: SampleSet,
        captions: Captions,
        count: int,
        skip: int,
        below: float | None,
        device: torch.device,
        beat: Callable[[], None],
    ):
        self.parts = parts
        self.distinct = distinct
        self.samples = samples
        self.captions = captions
        self.count, self.skip, self.below = count, skip, below
        self.device = device
        self.beat = beat

    def write_parts(self, to: Path) -> None:
        """Write this process's share of the stretches, where they are not there yet."""
        stretches = [range(len(self.parts))[start : start + PARTS] for start in range(0, len(self.parts), PARTS)]
        mine = list(enumerate(stretches))[dist.rank() :: dist.world_size()]
        with tqdm(total=len(mine), desc="mining", unit=" stretches", disable=not dist.is_main()) as bar:
            for number, stretch in mine:
                path = to / f"part-{number:05d}.npz"
                if not path.exists():
                    found = self._stretch(stretch)
                    with files.write_whole(path) as file:
                        np.savez(file, **found)  # type: ignore[arg-type]
                bar.update()

    def _stretch(self, stretch: Iterable[int]) -> dict[str, NDArray[Any]]:
        """Return ids, the cosine of each image with its own caption, and those of the captions that were found."""
        ids, images, own = [], [], []
        for number in stretch:
            here, rows = self.parts.read(number, "images")
            _, texts = self.parts.read(number, "texts")
            ids.append(here)
            images.append(_unit(rows))
            own.append((images[-1] * _unit(texts)).sum(dim=1))
        whole, right = torch.cat(images).to(self.device), torch.cat(own).to(self.device)
        numbers = np.concatenate(ids)
        limits = torch.full_like(right, torch.inf)
        if self.below is not None:
            limits = right - (1 - self.below) * right.abs()
        texts_of = self._own_captions(numbers, stretch)
        with whole_float32():
            cosines, nearest = self._nearest(whole, limits, texts_of)
        absent = cosines == -torch.inf
        nearest = nearest.masked_fill(absent, NONE)[:, self.skip :]
        return {
            "ids": numbers,
            "own": right.cpu().numpy(),
            "cosines": cosines[:, self.skip :].cpu().numpy(),
            "numbers": nearest.cpu().numpy(),
        }

    def _own_captions(self, ids: NDArray[np.int64], stretch: Iterable[int]) -> Int64[Tensor, "o 2"]:
        """Return rows of images and numbers of captions that are right for them, by row."""
        first = np.concatenate([self.distinct.numbers(self.parts.captions(number)) for number in stretch])
        pairs = [np.stack([np.arange(len(ids)), first], axis=1)]
        for row, number in enumerate(ids.tolist()):
            try:
                known = self.distinct.numbers(self.captions.all(self.samples[number]))
            except BadSampleError:  # further captions of what has a good first one
                continue
            pairs.append(np.stack([np.full(len(known), row), known], axis=1)[known != UNKNOWN])
        both = np.concatenate(pairs)
        return torch.from_numpy(both[np.argsort(both[:, 0], kind="stable")]).to(self.device)

    def _nearest(
        self, images: Float32[Tensor, "m d"], limits: Float32[Tensor, " m"], own: Int64[Tensor, "o 2"]
    ) -> Nearest:
        """Return the highest cosines of each image with captions that are not its own, falling, and their numbers."""
        wanted = self.count + self.skip
        best = images.new_full((len(images), wanted), -torch.inf)
        numbers = torch.full((len(images), wanted), NONE, device=self.device)
        starts = range(0, len(images), ROWS)
        of_block = torch.searchsorted(own[:, 0].contiguous(), torch.tensor([*starts, len(images)], device=self.device))
        for found, rows in self.distinct.embeddings():
            if not len(found):
                continue
            texts, first = _unit(rows).to(self.device), int(found[0])
            for block, start in enumerate(starts):
                here = slice(start, start + ROWS)
                right = own[of_block[block] : of_block[block + 1]] - torch.tensor([start, first], device=self.device)
                right = right[(right[:, 1] >= 0) & (right[:, 1] < len(texts))]
                cosines = images[here] @ texts.T
                cosines[right[:, 0], right[:, 1]] = -torch.inf
                cosines = cosines.masked_fill(cosines > limits[here, None], -torch.inf)
                few = cosines.topk(min(wanted, len(texts)), dim=1)
                both = torch.cat([best[here], few.values], dim=1)
                of_both = torch.cat([numbers[here], few.indices + first], dim=1)
                best[here], places = both.topk(wanted, dim=1)
                numbers[here] = of_both.gather(1, places)
            self.beat()
        return best, numbers


def _join(to: Path, num_samples: int, count: int, distinct: DistinctCaptions, told: Mapping[str, Any]) -> None:
    """Put the parts together, and remove them once all is there."""
    numbers = np.full((num_samples, count), NONE, dtype=np.int32)
    own, sums, pairs = 0.0, 0.0, 0
    paths = sorted(to.glob("part-*.npz"))
    images = 0
    for path in paths:
        with np.load(path) as part:
            numbers[part["ids"]] = part["numbers"]
            cosines = part["cosines"]
            images += len(part["ids"])
            own += float(part["own"].sum(dtype=np.float64))
            sums += float(cosines[np.isfinite(cosines)].sum(dtype=np.float64))
            pairs += int(np.isfinite(cosines).sum())
    means = {"cosine_of_own": own / max(images, 1), "cosine_of_mined": sums / max(pairs, 1)}
    fewer = int(((numbers == NONE).any(axis=1)).sum()) - (num_samples - images)
    write_mined(to, numbers, distinct.texts(), {**told, "images": images, "with_fewer": fewer, **means})
    for path in paths:
        files.remove(path)


def _unit(rows: NDArray[np.floating]) -> Float32[Tensor, "n d"]:
    return functional.normalize(torch.from_numpy(rows.astype(np.float32)), dim=1)
