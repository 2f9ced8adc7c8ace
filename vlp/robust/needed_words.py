"""Which word a caption needs most to be like its image, and captions with another word there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.ground.types import Encoder
from vlp.robust.caption_words import changeable, exchanged, left_out
from vlp.robust.findings import Outcome
from vlp.robust.stage import Stage


def needed_places(encoder: Encoder, captions: Sequence[str], images: Float32[Tensor, "n d"]) -> list[int]:
    """Return, for each caption, the place of the word without which it is least like its image."""
    options = [changeable(caption) for caption in captions]
    flat = [left_out(caption, place) for caption, places in zip(captions, options, strict=True) for place in places]
    owners = [number for number, places in enumerate(options) for _ in places]
    rows = encoder.embed_texts(flat).float()
    likeness = (rows * images.cpu()[torch.tensor(owners)]).sum(dim=1).split([len(places) for places in options])
    return [places[int(each.argmin())] for places, each in zip(options, likeness, strict=True)]


def write_word_into(stage: Stage, word: str) -> Outcome:
    """Put a word in the place of the one that each caption of a set needs most."""
    texts, images = stage.evaluator.texts, stage.shared.images(stage.data).cpu()
    owners = stage.image_of_text

    def write(places: Sequence[int]) -> Outcome:
        captions = [texts[place] for place in places]
        needed = needed_places(stage.shared.encoder, captions, images[owners[list(places)]])
        changed = [exchanged(text, place, word) for text, place in zip(captions, needed, strict=True)]
        return Outcome(
            rows=stage.shared.encoder.embed_texts(changed).float().cpu(),
            distance=torch.tensor([float(text != other) for text, other in zip(captions, changed, strict=True)]),
            texts=tuple(changed),
        )

    return stage.change_texts(write)
