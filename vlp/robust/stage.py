"""A set before a model, where attacks take place: dealt to all processes, batch by batch as evaluations see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.attacks.ball import PIXEL_STEP
from vlp.evaluators.base import Evaluator
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.shared import LEAST_IMAGES, LEAST_TEXTS, SharedEncoder, deal, decode_ahead
from vlp.ground.offers import offers
from vlp.ground.randomness import hash64
from vlp.ground.types import LayerEncoder, PixelEncoder
from vlp.robust.findings import Found, Outcome
from vlp.robust.goal import Goal
from vlp.robust.problem import Problem
from vlp.robust.thumbnails import picture_of

Perturb = Callable[[Problem, Float32[Tensor, "n 3 h w"], float, Int64[Tensor, " n"]], Found]
Rewrite = Callable[[Sequence[int]], Outcome]


@dataclass(frozen=True)
class Stage:
    """Where an attack takes place.

    Args:
        encoder: The model, in float32.
        shared: The same as evaluators see it.
        data: The set.
        evaluator: What scores it.
        goal: What its images are to find.
        captions: What its captions are to find, where it has some.
        batch_size: Images per forward: that of `encoder`, so that the same batches give the same bits.
        shown: Places of the samples of which pictures are kept.
        progress: Show a bar on the main process, called `title`.
        keeps_layers: Keep what every block of the image tower says of the changed images.
    """

    encoder: PixelEncoder
    shared: SharedEncoder
    data: EvaluationSet
    evaluator: Evaluator
    goal: Goal
    captions: Goal | None
    batch_size: int
    shown: frozenset[int] = frozenset()
    progress: bool = False
    title: str = ""
    keeps_layers: bool = False

    def change_images(self, perturb: Perturb, radius: float) -> Outcome:
        """Change every image of the set, and embed what comes of it as an evaluation would.

        Args:
            radius: In steps of 8-bit colours.
        """

        def work(indices: range) -> list[Outcome]:
            decoded = decode_ahead(lambda place: self.encoder.plain_pixels(self.data.image(place)), indices)
            return [self._change(perturb, radius, *batch) for batch in self._batches(indices, decoded)]

        chunks = deal(len(self.data), LEAST_IMAGES, work, self.title, progress=self.progress)
        return joined([part for chunk in chunks for part in chunk])

    def _batches(self, indices: range, pixels: Iterator[Tensor]) -> Iterator[tuple[range, Tensor]]:
        for start in range(0, len(indices), self.batch_size):
            places = indices[start : start + self.batch_size]
            yield places, torch.stack([next(pixels) for _ in places]).to(self.shared.device)

    def _change(self, perturb: Perturb, radius: float, places: range, pixels: Float32[Tensor, "n 3 h w"]) -> Outcome:
        problem = Problem(
            self.encoder.embed_pixels, self.goal.candidates, self.goal.positives(places), self.shared.scale
        )
        found = perturb(problem, pixels, radius * PIXEL_STEP, self.ids(places))
        with torch.inference_mode():
            rows = self.encoder.embed_pixels(found.inputs)
        layers = []
        if self.keeps_layers and offers(self.encoder, LayerEncoder):
            layers = [layer.cpu() for layer in self.encoder.layers(found.inputs)]
        shown = {place: number for number, place in enumerate(places) if place in self.shown}
        return Outcome(
            rows=rows.cpu(),
            distance=(found.inputs - pixels).abs().flatten(1).amax(dim=1).cpu() / PIXEL_STEP,
            least=float(found.inputs.min()),
            most=float(found.inputs.max()),
            is_blind=None if found.is_blind is None else found.is_blind.cpu(),
            pictures={
                str(place): picture_of(pixels[number], found.inputs[number], radius * PIXEL_STEP)
                for place, number in shown.items()
            },
            layers=tuple(layers),
        )

    def change_texts(self, rewrite: Rewrite) -> Outcome:
        """Change every caption of the set.

        Args:
            rewrite: From the places of some captions to what became of them.
        """

        def work(indices: range) -> list[Outcome]:
            starts = range(0, len(indices), self.batch_size)
            return [rewrite(indices[start : start + self.batch_size]) for start in starts]

        chunks = deal(len(self.evaluator.texts), LEAST_TEXTS, work, self.title, progress=self.progress)
        return joined([part for chunk in chunks for part in chunk])

    def problem_of_texts(self, places: Sequence[int], embed: Callable[[Tensor], Float32[Tensor, "n d"]]) -> Problem:
        """Return what captions are to be kept from: the images that are right for them.

        Args:
            embed: What an attack moves to embeddings of these captions.
        """
        assert self.captions is not None, "no captions"
        return Problem(embed, self.captions.candidates, self.captions.positives(places), self.shared.scale)

    @property
    def image_of_text(self) -> Int64[Tensor, " t"]:
        """Place of the image of each caption."""
        found: Tensor = self.evaluator.image_of_text  # type: ignore[attr-defined]
        return found

    def ids(self, places: Sequence[int]) -> Int64[Tensor, " n"]:
        """Return numbers that depend on keys alone, so that what is drawn for a sample is the same in any set."""
        found = [hash64(self.data.samples[place].key.encode()) - 2**63 for place in places]
        return torch.tensor(found, device=self.shared.device)


def joined(parts: Sequence[Outcome]) -> Outcome:
    """Put outcomes of batches together, in their order."""
    blind = [part.is_blind for part in parts if part.is_blind is not None]
    return Outcome(
        rows=torch.cat([part.rows for part in parts]),
        distance=torch.cat([part.distance for part in parts]),
        least=min(part.least for part in parts),
        most=max(part.most for part in parts),
        is_blind=torch.cat(blind) if blind else None,
        texts=tuple(text for part in parts for text in part.texts),
        pictures={place: picture for part in parts for place, picture in part.pictures.items()},
        layers=tuple(torch.cat(rows) for rows in zip(*(part.layers for part in parts), strict=True)),
    )
