"""Pairs of a data set that a universal attack learns from, before anybody is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from tqdm import tqdm

from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import decode_image
from vlp.data.samples import SampleSet
from vlp.data.shards.cards import load_card
from vlp.data.texts.captions import Captions
from vlp.evaluators.score_tiles import spaced_places
from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.robust.stage import Stage

FEWEST = 4


@dataclass(frozen=True)
class LearningPairs:
    """Images and captions, and what the model says of them as they are.

    Args:
        pixels: In [0, 1], on the CPU.
        captions: One of each image.
        images: Embeddings of the images, and `texts`, of the captions, on the device of the model.
    """

    pixels: Float32[Tensor, "n 3 h w"]
    captions: tuple[str, ...]
    images: Float32[Tensor, "n d"]
    texts: Float32[Tensor, "n d"]

    def __len__(self) -> int:
        return len(self.captions)

    def batches(
        self, size: int, epochs: int, seed: int, title: str = ""
    ) -> Iterator[tuple[Int64[Tensor, " b"], Int64[Tensor, " b"]]]:
        """Yield places of a batch, and of as many others to lead astray to, in an order of its own each epoch.

        Args:
            title: Of a bar on the main process; nothing for none.
        """
        generator = torch.Generator().manual_seed(seed)
        for _ in tqdm(range(epochs), desc=title, unit="epoch", disable=not (title and dist.is_main()), leave=False):
            order, others = (torch.randperm(len(self), generator=generator) for _ in range(2))
            for start in range(0, len(self) - size + 1, size):
                yield order[start : start + size], others[start : start + size]


def read_pairs(stage: Stage, card_name: str, most: int) -> LearningPairs:
    """Read pairs of a data set, evenly spaced, and embed them; the same on all processes.

    Args:
        card_name: Name under `data/`, or a YAML file.
        most: How many pairs, at most.

    Raises:
        RecipeError: No such card, or too few pairs in it can be read.
    """
    with dist.together():
        card = load_card(card_name)
        samples = SampleSet({card.name: card})
    pixels, captions = dist.on_main(partial(_read, stage, samples, most))
    if len(captions) < FEWEST:
        raise RecipeError(f"{card_name}: {len(captions)} pairs can be read, and it takes {FEWEST} to learn from")
    with torch.no_grad():
        parts = [stage.encoder.embed_pixels(part.to(stage.shared.device)) for part in pixels.split(stage.batch_size)]
    return LearningPairs(pixels, captions, torch.cat(parts), stage.shared.texts(captions))


def _read(stage: Stage, samples: SampleSet, most: int) -> tuple[Tensor, tuple[str, ...]]:
    read, captions = Captions(), []
    pixels = []
    for place in spaced_places(len(samples), most).tolist():
        try:
            sample = samples[place]
            caption = read.first(sample)
            pixels.append(stage.encoder.plain_pixels(decode_image(sample.read_image())))
            captions.append(caption)
        except BadSampleError:
            continue
    return torch.stack(pixels) if pixels else torch.empty(0), tuple(captions)
