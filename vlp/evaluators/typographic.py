"""Does a model believe its eyes, or what is written on the image?"""

from __future__ import annotations

from dataclasses import replace

import torch

from vlp.evaluators.base import Seed, check_classes, evaluators
from vlp.evaluators.corruptions import generator
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import proportion
from vlp.evaluators.overlay import Overlay, check_letters
from vlp.evaluators.prompts import class_embeddings, prompts_of
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.zero_shot import rank_classes
from vlp.ground.types import Evaluation, PerSample, RecipeError


@evaluators.register("typographic")
class Typographic:
    """Classify images on which the name of a wrong class is written: the typographic attack.

    Goh et al. 2021 (distill.pub, Multimodal Neurons in Artificial Neural Networks); Materzynska et al. 2022 (arXiv
    2206.07835). The protocol is this project's: images are brought to 224 pixels by ImageNet-C's cut, and the name of
    another class, drawn at random, stands on them in letters of 20 to 40 pixels (smaller where it would not fit), white
    or black with an outline, at a random place. `acc1` is the accuracy there, and `followed` the share of images that
    are taken for what is written; `acc1_clean` and `followed_clean` are the same without the words, after the same cut.

    Args:
        prompts: File relative to `eval/`, as for `zero_shot`.
        seed: Class, size, colour and place depend on it and on the key of the sample, and on nothing else.
    """

    def __init__(self, data: EvaluationSet, *, prompts: str | None = None, seed: Seed = 0):
        check_classes(data)
        if len({name.casefold() for name in data.class_names}) < 2:
            raise RecipeError(f"{data.folder.root}: all classes have one name, so that none is wrong")
        check_letters(data.class_names)
        self.data = data
        self.written = tuple(_wrong_class(data, index, seed) for index in range(len(data)))
        words = tuple(data.class_names[each] for each in self.written)
        self.attacked = replace(data, overlay=Overlay(words, seed))
        self.clean = replace(data, overlay=Overlay(("",) * len(data), seed))
        self.prompts = prompts_of(data, prompts)
        self.texts = self.prompts.texts

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images with and without words, and prompts, and score the classes."""
        classes = class_embeddings(encoder, self.prompts)
        names = [name.casefold() for name in self.data.class_names]
        hits: dict[str, list[bool]] = {}
        details: dict[str, object] = {"class_names": list(self.data.class_names), "written": list(self.written)}
        for suffix, data in (("", self.attacked), ("_clean", self.clean)):
            images = encoder.images(data)
            labels = torch.tensor(data.labels, device=images.device)
            found = rank_classes(images, classes, labels).predictions.tolist()
            hits[f"acc1{suffix}"] = [each == label for each, label in zip(found, data.labels, strict=True)]
            # by name: two classes may be called crane
            hits[f"followed{suffix}"] = [
                names[each] == names[wrong] for each, wrong in zip(found, self.written, strict=True)
            ]
            details[f"predictions{suffix}"] = found
        metrics = tuple(proportion(name, sum(each), len(each)) for name, each in hits.items())
        samples = {name: PerSample([float(hit) for hit in each]) for name, each in hits.items()}
        return Evaluation(metrics, details, samples)


def _wrong_class(data: EvaluationSet, index: int, seed: int) -> int:
    """Draw a class of another name than the sample's."""
    rng = generator(seed, "wrong class", data.samples[index].key)
    right = data.class_names[data.labels[index]].casefold()
    while True:
        drawn = int(rng.integers(len(data.class_names)))
        if data.class_names[drawn].casefold() != right:
            return drawn
