"""Does a search under a named aspect find what is alike in it?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean, mean_of_means
from vlp.evaluators.r_precision import precision_at_r
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.offers import offers
from vlp.ground.types import Encoder, Evaluation, PerSample, RecipeError

NONE = -1


class GateEncoder(Protocol):
    """A model in which a text opens a filter of coordinates, around one that has none."""

    @property
    def ungated(self) -> Encoder:
        """That one, whose embeddings are filtered."""

    def text_gates(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]: ...


@evaluators.register("aspect_retrieval")
class AspectRetrieval:
    """Search images by captions and captions by images under one aspect after the other, named by a text.

    The text opens a filter g of coordinates (`vlp describe text_gate`; score `RUN@HEAD`), through which images and
    captions are compared: the cosine of g * x and g * y of Wu et al. 2024 (Hydra, arXiv:2410.18200), whose filters come
    of class labels. Right is whatever names the same word of an aspect: a caption names the first of its words that it
    has, an image those that its captions name. What names none is no part of it.

    `ASPECT_map_at_r` is the mean over queries of both directions of mAP@R (Musgrave et al. 2020, arXiv:2003.08505), and
    `ASPECT_ungated_map_at_r` that of the embeddings as they are; `map_at_r` and `ungated_map_at_r` are the means over
    aspects. `details.openness` says how far each filter is open, from 0 to 1: its mean and its deviation.

    Args:
        aspects: By name, the text that opens the filter.
        words: By name, the words that tell samples apart; two or more that captions have.
    """

    def __init__(self, data: EvaluationSet, *, aspects: dict[str, str], words: dict[str, tuple[str, ...]]):
        check_kind(data, "retrieval")
        if not aspects or aspects.keys() != words.keys():
            raise RecipeError(
                f"settings.words: name those of each of settings.aspects ({', '.join(aspects) or 'none'})"
            )
        self.data, self.aspects = data, aspects
        self.captions = tuple(caption for listed in data.captions for caption in listed)
        self.texts = (*self.captions, *aspects.values())
        self.named = {name: named_words(data.captions, words[name], name) for name in aspects}

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and captions once, and search under each filter and without one."""
        model = encoder.encoder
        if not offers(model, GateEncoder):
            raise RecipeError(
                f"a {type(model).__name__} has no filter that a text opens: score a run behind a head of type "
                "text_gate (RUN@HEAD)"
            )
        images, captions = encoder.images(self.data), SharedEncoder(model.ungated).texts(self.captions)
        gates = model.text_gates(list(self.aspects.values())).to(images.device)
        gated = {
            name: alike(self.named[name], functional.normalize(images * gate), functional.normalize(captions * gate))
            for name, gate in zip(self.aspects, gates, strict=True)
        }
        ungated = {name: alike(named, images, captions) for name, named in self.named.items()}
        openness = {
            name: [float(gate.mean()), float(gate.std())] for name, gate in zip(self.aspects, gates, strict=True)
        }
        return summary(gated, ungated, {"openness": openness, "words": {k: v.counts for k, v in self.named.items()}})


@dataclass(frozen=True)
class Named:
    """Samples that name a word of an aspect.

    Args:
        image_places: Of the images in the set, `text_places` of the captions among all.
        shown: Which words the captions of an image name.
        text_words: Number of the word that a caption names.
        counts: How many captions name each word.
    """

    image_places: Int64[Tensor, " n"]
    shown: Bool[Tensor, "n w"]
    text_places: Int64[Tensor, " m"]
    text_words: Int64[Tensor, " m"]
    counts: dict[str, int]


def named_words(captions: Sequence[Sequence[str]], words: Sequence[str], aspect: str) -> Named:
    """Return which word each caption names, and which those of each image do.

    Raises:
        RecipeError: Fewer than two words are named: there is nothing to tell apart.
    """
    numbers = [[_number(caption, words) for caption in listed] for listed in captions]
    shown = torch.tensor([[number in each for number in range(len(words))] for each in numbers]).view(len(numbers), -1)
    of_texts = torch.tensor([number for each in numbers for number in each])
    counts = {word: int((of_texts == number).sum()) for number, word in enumerate(words)}
    if sum(count > 0 for count in counts.values()) < 2:
        raise RecipeError(f"settings.words.{aspect}: captions have {counts} of them: name two or more that they have")
    images, texts = torch.where(shown.any(dim=1))[0], torch.where(of_texts != NONE)[0]
    return Named(images, shown[images], texts, of_texts[texts], counts)


def _number(caption: str, words: Sequence[str]) -> int:
    said = set(re.findall(r"\w+", caption.lower()))
    return next((number for number, word in enumerate(words) if word.lower() in said), NONE)


def alike(named: Named, images: Float32[Tensor, "n d"], texts: Float32[Tensor, "t d"]) -> Float64[Tensor, " q"]:
    """Return mAP@R of each image that looks for captions, and of each caption that looks for images."""
    rows, words = images[named.image_places.to(images.device)], texts[named.text_places.to(texts.device)]
    is_right = named.shown[:, named.text_words]
    sides = ((rows, words, is_right), (words, rows, is_right.T))
    return torch.cat([precision_at_r(a, b, torch.stack(torch.where(right)))[1] for a, b, right in sides])


def summary(
    gated: Mapping[str, Float64[Tensor, " q"]],
    ungated: Mapping[str, Float64[Tensor, " q"]],
    details: dict[str, object],
) -> Evaluation:
    """Return the mean of each aspect, and of all aspects."""
    metrics, samples = [], {}
    for prefix, found in (("", gated), ("ungated_", ungated)):
        values = torch.cat(list(found.values())).numpy()
        groups = torch.cat([torch.full((len(each),), k) for k, each in enumerate(found.values())]).numpy()
        metrics.append(mean_of_means(f"{prefix}map_at_r", values, groups))
        samples[f"{prefix}map_at_r"] = PerSample(values.tolist(), groups.tolist())
        for name, each in found.items():
            metrics.append(mean(f"{name}_{prefix}map_at_r", each.numpy()))
            samples[f"{name}_{prefix}map_at_r"] = PerSample(each.tolist())
    return Evaluation(tuple(metrics), details, samples)
