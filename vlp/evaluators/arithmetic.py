"""Does an image plus the difference of two texts lie at an image that shows the change?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.groups import ones
from vlp.evaluators.intervals import proportion
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, PerSample, RecipeError

CHUNK = 1024


@evaluators.register("arithmetic")
class EmbeddingArithmetic:
    """Edit images by text: look for the image nearest to image + scale * (text after - text before).

    Couairon et al. 2022 (SIMAT, arXiv:2112.03162); Fahim et al. 2024 (arXiv:2405.18570) judge the gap between
    modalities by it. The set is one of choices: the first line of a sample says what its image shows, each line below
    it is an edit, what it should show instead; in a retrieval set of such samples some may have no edit. `CAPTION`,
    TAB, `man`, TAB, `woman` takes the difference of two words, as SIMAT does, and not that of the captions. An edit is
    right if the best image other than the one edited shows that caption, word for word; SIMAT asks another model
    instead, and weighs edits. `acc1` counts a tie with a wrong image as wrong, `acc1_argmax` as right;
    `image_only_acc1` and `text_only_acc1` search with the image or the caption alone.

    Args:
        scale: How much of the difference is added; SIMAT's code takes 1 unless told otherwise.
    """

    def __init__(self, data: EvaluationSet, *, scale: float = 1.0):
        if data.kind != "retrieval":
            check_kind(data, "choice")
        if not scale > 0:
            raise RecipeError(f"settings.scale is {scale}; it must be positive (image_only_acc1 is what 0 gives)")
        self.data, self.scale = data, scale
        self.shown, self.edits = read_edits(data)
        self.texts = tuple(text for edit in self.edits for text in (edit.before, edit.after, edit.caption))

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and texts and search with each edit."""
        images = encoder.images(self.data)
        before, after, captions = encoder.texts(self.texts).to(images.device).view(len(self.edits), 3, -1).unbind(1)
        numbers = {caption: number for number, caption in enumerate(dict.fromkeys(self.shown))}
        shown = torch.tensor([numbers[caption] for caption in self.shown], device=images.device)
        wanted = torch.tensor([numbers[edit.caption] for edit in self.edits], device=images.device)
        places = torch.tensor([edit.place for edit in self.edits], device=images.device)
        edited = images[places] + self.scale * (after - before)
        ahead, tied = compare_best(edited, images, places, shown, wanted)
        hits = {"acc1": ahead, "acc1_argmax": ahead | tied}
        for name, queries in (("image_only_acc1", images[places]), ("text_only_acc1", captions)):
            hits[name] = compare_best(queries, images, places, shown, wanted)[0]
        right = (shown == wanted[:, None]).sum(dim=1).double()
        details = {"edits": len(self.edits), "ties": int(tied.sum()), "chance": float(right.mean()) / (len(shown) - 1)}
        metrics = tuple(proportion(name, int(found.sum()), len(found)) for name, found in hits.items())
        return Evaluation(metrics, details, {name: PerSample(ones(found)) for name, found in hits.items()})


@dataclass(frozen=True)
class Edit:
    """What is to change in one image.

    Args:
        place: Place of the image in the set.
        caption: What an image that is right shows.
        before: Text whose embedding is taken away.
        after: Text whose embedding is added.
    """

    place: int
    caption: str
    before: str
    after: str


def read_edits(data: EvaluationSet) -> tuple[list[str], list[Edit]]:
    """Return what each image shows, and all edits.

    Raises:
        RecipeError: An edit has another form, changes nothing, or asks for what no image shows.
    """
    shown = [captions[0] for captions in data.captions]
    known, edits = set(shown), []
    for place, (sample, captions) in enumerate(zip(data.samples, data.captions, strict=True)):
        for line in captions[1:]:
            caption, *words = line.split("\t")
            where = f"{sample.where}: sample '{sample.key}'"
            if len(words) not in (0, 2):
                raise RecipeError(f"{where}: '{line}' is neither a caption nor a caption and two words between tabs")
            if caption == captions[0]:
                raise RecipeError(f"{where}: the edit '{caption}' is what its image shows already; leave it out")
            if caption not in known:
                raise RecipeError(f"{where}: no image of the set shows '{caption}', so that no edit can be right")
            before, after = words or (captions[0], caption)
            edits.append(Edit(place, caption, before, after))
    if not edits:
        raise RecipeError(f"{data.folder.root}: no sample has an edit below its caption")
    return shown, edits


def compare_best(
    queries: Float32[Tensor, "q d"],
    images: Float32[Tensor, "n d"],
    places: Int64[Tensor, " q"],
    shown: Int64[Tensor, " n"],
    wanted: Int64[Tensor, " q"],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say for each query whether the best image that shows what is wanted scores more than, or as much as, all others.

    Args:
        places: The image that each query was made of, which is never found.
    """
    ahead, tied = [], []
    for rows, own, goal in zip(queries.split(CHUNK), places.split(CHUNK), wanted.split(CHUNK), strict=True):
        scores = rows @ images.T
        scores.scatter_(1, own[:, None], -torch.inf)
        is_right = shown == goal[:, None]
        right = scores.masked_fill(~is_right, -torch.inf).amax(dim=1)
        wrong = scores.masked_fill(is_right, -torch.inf).amax(dim=1)
        ahead.append(right > wrong)
        tied.append(right == wrong)
    return torch.cat(ahead).cpu().numpy(), torch.cat(tied).cpu().numpy()
