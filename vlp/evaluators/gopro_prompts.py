"""Words in front of class names that follow from the style and content of each image, learned from a few of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vlp.evaluators.base import Seed, check_classes, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.probes.class_contexts import ClassContexts
from vlp.evaluators.probes.few import check_draws, deal_draws, draw_few, score_draws
from vlp.evaluators.probes.image_styles import Eye
from vlp.evaluators.probes.learned_prompts import (
    Learning,
    Prompts,
    SeenImages,
    Shift,
    Styles,
    go_through,
    learn,
    logits,
)
from vlp.evaluators.probes.train_split import open_full_split, told_of
from vlp.evaluators.shared import LEAST_IMAGES, SharedEncoder, deal
from vlp.ground.randomness import fold
from vlp.ground.ranges import Count
from vlp.ground.types import Evaluation, RecipeError

IMAGES = 32  # whose texts are embedded together, in passes that `ClassContexts` bounds


@evaluators.register("gopro_prompts")
class GoproPrompts:
    """Learn prompts that follow from each image, from a few images of each class, over several draws of them.

    GOPro (Singha et al. 2023, arXiv:2308.11605), in its authors' code: both towers are frozen. To every vector of the
    context a linear function of the image is added: of the mean over places of each channel (its content) and of the
    average of that and the deviation (its style), after each block of the image tower. The loss is the cross-entropy
    of the classes, the mean square between the texts of an image and those of a strongly changed view and of one by
    AugMix, and 0.1 times the contrast of SimCLR between image and strong view behind a linear projector with a batch
    norm. As the image tower is frozen, that contrast teaches the projector alone, and no text depends on it. SGD with
    momentum 0.9 and weight decay 5e-4, a first epoch at 1e-5 and half a cosine.

    Each image has texts of its own, so that no embedding of a class can be kept or exported: a step embeds
    3 x batch_size x classes texts, scoring images x classes for each number of shots and draw; `details` count them.
    With both weights 0 and nothing that follows from images it is `coop_prompts`. `acc1_0shot` is the prompt
    `CONTEXT NAME.` before it has learned. Intervals take both draws and test images as chance. A draw of more shots
    contains that of fewer.

    Adapted: the image itself is learned from as it is evaluated, once, where the authors crop it at random; every image
    has an AugMix view of its own, where their code shows all of a batch views of the first. Refused are models whose
    token embeddings are out of reach (ONNX files, `RUN@HEAD`), that have learned tokens of their own, whose image
    tower has no blocks, or whose images keep their aspect ratio.

    Args:
        shots: Images of each class to learn from.
        draws: How often they are drawn, at least twice.
        train_split: Folder of the shards that are drawn from.
        context: Words that the vectors begin as, a vector per token.
        epochs: Passes over these images.
        batch_size: Images of a step.
        learning_rate: Of SGD, after the first epoch.
        consistency_weight: Of the mean squares between texts of views; 0 shows no AugMix views.
        contrast_weight: Of the contrast of views.
        temperature: Of that contrast.
        seed: Which images are drawn, in which order they are shown, how they are changed, and what the maps begin as.
    """

    def __init__(
        self,
        data: EvaluationSet,
        *,
        shots: tuple[int, ...] = (1, 2, 4, 8, 16),
        draws: int = 5,
        train_split: str = "train",
        context: str = "a photo of a",
        epochs: Count = 50,
        batch_size: Count = 4,
        learning_rate: float = 0.002,
        consistency_weight: float = 1.0,
        contrast_weight: float = 0.1,
        temperature: float = 0.1,
        seed: Seed = 0,
    ):
        check_classes(data)
        check_draws(shots, draws)
        if contrast_weight and batch_size < 2:
            raise RecipeError("settings.batch_size is 1, and one image has no other to be told from; give two or more")
        if contrast_weight and min(shots) * len(data.class_names) < 2:
            raise RecipeError(
                "settings.shots: one image of one class has no other to be told from; set contrast_weight to 0, or "
                "give two shots or more"
            )
        self.data, self.shots, self.draws, self.train_split = data, shots, draws, train_split
        self.context, self.seed = context, seed
        self.how = Learning(epochs, batch_size, learning_rate, consistency_weight, contrast_weight, temperature)
        self.texts = tuple(f"{context} {name}." for name in data.class_names)

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Learn from draws dealt to all processes, and score images dealt to them."""
        contexts = ClassContexts(encoder.encoder, self.data.class_names, self.context)
        eye = Eye(encoder.encoder, encoder.device)
        train = open_full_split(encoder, self.data, self.train_split)
        labels = np.array(train.labels)

        def learned(number: int, draw: int) -> Prompts:
            return self._learn(draw_few(labels, number, self.seed, draw), draw, train, contexts, eye, encoder)

        found = deal_draws(self.shots, self.draws, learned)
        every = [Prompts(contexts.start), *(each for number in self.shots for each in found[number])]
        hits = self._score(every, contexts, eye, encoder)
        by_number = hits[1:].reshape(len(self.shots), self.draws, -1)
        texts = {f"{each}shot": self._count(each, len(contexts)) for each in self.shots}
        details = {
            "learned_from": [told_of(train)],
            "texts_of_a_draw": texts,
            "texts_of_scoring": (len(every) - 1) * len(self.data) * len(contexts),
            "blocks": 0 if every[-1].shift is None else len(every[-1].shift.style),
        }
        return score_draws(hits[0], dict(zip(self.shots, by_number, strict=True)), details)

    def _count(self, number: int, num_classes: int) -> int:
        return self.how.texts(number * num_classes, num_classes, per_image=True)

    def _learn(
        self,
        chosen: NDArray[np.int64],
        draw: int,
        train: EvaluationSet,
        contexts: ClassContexts,
        eye: Eye,
        encoder: SharedEncoder,
    ) -> Prompts:
        """Return prompts that have learned from one draw; on the CPU, as they travel.

        Args:
            chosen: Places of the images, a row per class.
        """
        number, places = chosen.shape[1], chosen.reshape(-1).tolist()
        pixels = torch.stack([*eye.read(train, places)])
        parts = [eye.see(part.to(encoder.device)) for part in pixels.split(IMAGES)]
        images = SeenImages(torch.cat([part.rows for part in parts]), _joined([part.styles or [] for part in parts]))
        prompts, projector = self._start(contexts, images, fold(self.seed, draw, number))
        look = None
        if self.how.consistency_weight or self.how.contrast_weight:
            kept = (pixels * 255).round().to(torch.uint8)  # exact: preparation ends in eight bits
            look = eye.look(kept, places, (self.seed, draw), mixed=self.how.consistency_weight > 0)
        labels = torch.arange(len(chosen), device=encoder.device).repeat_interleave(number)
        seed = (self.seed, draw, number)
        steps = learn(
            prompts, contexts, images, labels, self.how, scale=encoder.scale, seed=seed, look=look, projector=projector
        )
        go_through(steps, self.how, number, draw, self._count(number, len(contexts)), progress=encoder.progress)
        return prompts.cpu()

    def _start(self, contexts: ClassContexts, images: SeenImages, key: int) -> tuple[Prompts, nn.Module | None]:
        """Return prompts whose maps begin at random, and the projector of the contrast, where it has a weight."""
        device, width = contexts.start.device, images.rows.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key)
            shift = Shift([each.shape[-1] for each in images.styles or []], contexts.start.shape[-1])
            projector = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width))
        return Prompts(contexts.start, shift.to(device)), projector.to(device) if self.how.contrast_weight else None

    def _score(
        self, every: Sequence[Prompts], contexts: ClassContexts, eye: Eye, encoder: SharedEncoder
    ) -> NDArray[np.bool_]:
        """Return which prompts, a row each, were right about each image, which is looked at once for all of them."""
        every = [each.to(encoder.device) for each in every]
        truth = torch.tensor(self.data.labels, device=encoder.device)

        @torch.no_grad()
        def work(indices: range) -> NDArray[np.bool_]:
            found, pixels = [], eye.read(self.data, indices)
            for start in range(0, len(indices), IMAGES):
                part = indices[start : start + IMAGES]
                seen = eye.see(torch.stack([next(pixels) for _ in part]).to(encoder.device))
                scores = [logits(seen.rows, contexts.embed(each(seen.styles))) for each in every]
                found.append(torch.stack([rows.argmax(dim=1) for rows in scores]) == truth[part.start : part.stop])
            return torch.cat(found, dim=1).cpu().numpy()

        label = f"{self.data.folder.name}: images with texts of their own"
        parts = deal(len(self.data), LEAST_IMAGES, work, label, progress=encoder.progress)
        return np.concatenate(parts, axis=1)


def _joined(parts: Sequence[Styles]) -> Styles:
    return [torch.cat(block) for block in zip(*parts, strict=True)]
