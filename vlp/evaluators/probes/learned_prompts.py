"""Prompts that are learned from a few images for frozen towers: the same for all images, or such that follow from each.

Zhou et al. 2022, CoOp (arXiv:2109.01134); Singha et al. 2023, GOPro (arXiv:2308.11605), as its authors' code has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vlp.evaluators.probes.class_contexts import ClassContexts
from vlp.ground import dist
from vlp.ground.types import RecipeError

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # of Dassl, which both are built on
WARMUP_RATE = 1e-5  # of the first epoch

Styles = list[Float32[Tensor, "n 2 w"]]


@dataclass(frozen=True)
class Learning:
    """How prompts are learned.

    Args:
        epochs: Passes over the few images; the first is a warm-up at a rate of 1e-5, the others follow half a cosine.
        batch_size: Images of a step; what is left of an epoch after the last whole batch is not used.
        learning_rate: Of SGD with momentum 0.9 and weight decay 5e-4.
        consistency_weight: Of the mean square between the texts of an image and those of each changed view of it.
        contrast_weight: Of the contrast between an image and its strongly changed view.
        temperature: Of that contrast.
    """

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 0.002
    consistency_weight: float = 0.0
    contrast_weight: float = 0.0
    temperature: float = 0.1

    def __post_init__(self) -> None:
        for each in fields(self):
            value, may_be_zero = getattr(self, each.name), each.name.endswith("weight")
            if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
                raise RecipeError(f"settings.{each.name} is {value}; give a positive number")

    def rate(self, epoch: int) -> float:
        """Return the rate of an epoch, from 0."""
        if epoch == 0:
            return min(WARMUP_RATE, self.learning_rate)
        return self.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2

    def texts(self, images: int, classes: int, *, per_image: bool) -> int:
        """Return how many texts learning from so many images embeds."""
        size = min(images, self.batch_size)
        views = 3 if self.consistency_weight else 1
        return self.epochs * (images // size) * (size * views if per_image else 1) * classes


class Shift(nn.Module):
    """What an image adds to every vector of the context: a linear function of its style and content in each block.

    Style is the mean over places of each channel and its deviation, content the mean; each block has a map for either,
    whose results are averaged, and blocks are weighed.

    Args:
        widths: Channels of each block.
        width: Of a vector of the context.
    """

    def __init__(self, widths: Sequence[int], width: int):
        super().__init__()
        self.style = nn.ModuleList(nn.Linear(each, width) for each in widths)
        self.content = nn.ModuleList(nn.Linear(each, width) for each in widths)
        self.blocks = nn.Linear(len(widths), 1)

    def forward(self, styles: Styles) -> Float32[Tensor, "n w"]:
        found = [
            (of_style(block.mean(dim=1)) + of_content(block[:, 0])) / 2
            for of_style, of_content, block in zip(self.style, self.content, styles, strict=True)
        ]
        shifted: Tensor = self.blocks(torch.stack(found, dim=-1))
        return shifted.squeeze(-1)


class Prompts(nn.Module):
    """Learned vectors in front of class names, and perhaps what an image adds to them.

    Args:
        start: What the vectors begin as.
    """

    def __init__(self, start: Float32[Tensor, "m w"], shift: Shift | None = None):
        super().__init__()
        self.context = nn.Parameter(start.clone())
        self.shift = shift

    def forward(self, styles: Styles | None) -> Float32[Tensor, "n m w"]:
        """Return the context of each image; one for all where images add nothing."""
        if self.shift is None or styles is None:
            return self.context[None]
        return self.context + self.shift(styles)[:, None]


@dataclass(frozen=True)
class SeenImages:
    """What a frozen image tower says of some images."""

    rows: Float32[Tensor, "n d"]
    styles: Styles | None = None

    def __getitem__(self, places: Int64[Tensor, " k"]) -> SeenImages:
        return SeenImages(self.rows[places], None if self.styles is None else [each[places] for each in self.styles])


Look = Callable[[int, Int64[Tensor, " k"]], tuple[SeenImages, ...]]
"""From an epoch and the places of some images to their views: strongly changed, and by AugMix."""


def learn(
    prompts: Prompts,
    contexts: ClassContexts,
    images: SeenImages,
    labels: Int64[Tensor, " n"],
    how: Learning,
    *,
    scale: float,
    seed: Sequence[int],
    look: Look | None = None,
    projector: nn.Module | None = None,
) -> Iterator[float]:
    """Learn prompts in place, and yield the mean loss of each epoch.

    Args:
        scale: Inverse temperature of the model.
        seed: Of the order of images.
        look: Shows changed views, where they have a weight.
        projector: Behind which views of images are contrasted; learns as well.
    """
    order = np.random.default_rng(list(seed))
    learned = [*prompts.parameters(), *(projector.parameters() if projector is not None else ())]
    optimizer = torch.optim.SGD(learned, lr=how.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    size = min(how.batch_size, len(labels))
    for epoch in range(how.epochs):
        for group in optimizer.param_groups:
            group["lr"] = how.rate(epoch)
        batches = torch.from_numpy(order.permutation(len(labels))).to(labels.device).split(size)
        losses = []
        for places in batches[: len(labels) // size]:
            views = look(epoch, places) if look is not None else ()
            found = loss(prompts, contexts, (images[places], *views), labels[places], how, scale, projector)
            # Only for what learns: no gradient is computed, or kept, for the towers.
            gradients = torch.autograd.grad(found, learned)
            for parameter, gradient in zip(learned, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            losses.append(found.detach())
        yield float(torch.stack(losses).mean())


def go_through(losses: Iterable[float], how: Learning, number: int, draw: int, texts: int, *, progress: bool) -> None:
    """Learn from a draw to the end, with a bar on the main process where `progress` asks for one.

    Args:
        losses: Those of `learn`.
        number: Images of each class.
        draw: Which draw of them it is.
        texts: How many are embedded.
    """
    label = f"{number} shots, draw {draw}, {texts:,} texts: epochs"
    hidden = not (progress and dist.is_main())
    for _ in tqdm(losses, label, how.epochs, leave=False, disable=hidden):
        pass


def loss(
    prompts: Prompts,
    contexts: ClassContexts,
    views: Sequence[SeenImages],
    labels: Int64[Tensor, " n"],
    how: Learning,
    scale: float,
    projector: nn.Module | None = None,
) -> Float32[Tensor, ""]:
    """Return the cross-entropy of the classes of images, and what their views add to it.

    Args:
        views: The images as they are, strongly changed, and changed by AugMix; the first alone where nothing is
            compared.
    """
    texts = contexts.embed(prompts(views[0].styles))
    total = functional.cross_entropy(scale * logits(views[0].rows, texts), labels)
    if how.consistency_weight:
        others = (contexts.embed(prompts(view.styles)) for view in views[1:])
        total = total + how.consistency_weight * sum(functional.mse_loss(texts, other) for other in others)
    if how.contrast_weight and projector is not None:
        first, second = (projector(view.rows) for view in views[:2])
        total = total + how.contrast_weight * view_contrast(first, second, how.temperature)
    return total


def logits(rows: Float32[Tensor, "n d"], texts: Float32[Tensor, "n c d"]) -> Float32[Tensor, "n c"]:
    """Return the cosine of each image with its own texts; these may be the same for all of them."""
    return rows @ texts[0].T if len(texts) == 1 else torch.einsum("nd,ncd->nc", rows, texts)


def view_contrast(
    first: Float32[Tensor, "n p"], second: Float32[Tensor, "n p"], temperature: float
) -> Float32[Tensor, ""]:
    """Return the loss of SimCLR (Chen et al. 2020, arXiv:2002.05709): find the other view among all of both kinds."""
    rows = functional.normalize(torch.cat([first, second]), dim=1)
    scores = rows @ rows.T / temperature
    scores = scores.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf)
    return functional.cross_entropy(scores, torch.arange(len(rows), device=rows.device).roll(len(first)))
