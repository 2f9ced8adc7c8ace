"""Images that a cue means: WinoGAViL."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.instances import runs_of
from vlp.evaluators.intervals import mean
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, Metric, PerSample, RecipeError

VOWELS = "aeiou"
CHUNK = 512
SIZES = {"jaccard": (1, 10**9), "jaccard_5_6": (1, 6), "jaccard_10_12": (10, 10**9)}
"""Fewest and most images of the instances that a metric takes, as DataComp has it."""


@evaluators.register("association")
class Association:
    """Pick as many images as a cue means, those nearest to it, and take the Jaccard index with the right ones.

    WinoGAViL (Bitton et al. 2022, arXiv 2207.12576) by DataComp's protocol: the prompt is "A cue" or "An cue" in lower
    case; `jaccard` is the mean over instances, `jaccard_5_6` over those of up to 6 images, and `jaccard_10_12`
    (DataComp's main metric) over those of 10 and more. Of equal scores the later image is picked, as by a stable sort;
    `details.ties` counts the instances where that decides.
    """

    judges_instances = True

    def __init__(self, data: EvaluationSet):
        check_kind(data, "association")
        self.data = data
        self.instances = runs_of(data)
        for name, members in self.instances.items():
            cues = {data.captions[member] for member in members}
            where = data.samples[members[0]].where
            if len(cues) > 1:
                raise RecipeError(f"{where}: instance '{name}' has {len(cues)} cues; its samples must have the same")
            if not any(data.labels[member] for member in members):
                raise RecipeError(f"{where}: instance '{name}' has no image that its cue means")
        self.texts = tuple(prompt_of(data.captions[members[0]][0]) for members in self.instances.values())

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and cues and pick."""
        images, cues = encoder.images(self.data), encoder.texts(self.texts)
        indices, held = _padded(list(self.instances.values()))
        labels = torch.tensor(self.data.labels).bool()[indices] & held
        held, device = held.to(images.device), images.device
        parts = zip(indices.to(device).split(CHUNK), cues.split(CHUNK), strict=True)
        scores = torch.cat([(images[rows] * cue[:, None]).sum(dim=-1) for rows, cue in parts])
        return pick(torch.where(held, scores, -torch.inf), labels.to(device), held)


def prompt_of(cue: str) -> str:
    """Return what the text tower reads for a cue."""
    cue = cue.lower()
    return f"An {cue}" if cue[0] in VOWELS else f"A {cue}"


def pick(scores: Float32[Tensor, "n k"], labels: Bool[Tensor, "n k"], held: Bool[Tensor, "n k"]) -> Evaluation:
    """Score instances.

    Args:
        scores: Minus infinity where an instance has no more images.
        labels: Which images are meant, at least one of each instance.
        held: Which there are.
    """
    num_right = labels.sum(dim=1)
    last = (num_right - 1)[:, None]
    falling, places = scores.flip(1).sort(dim=1, descending=True, stable=True)
    ranks = places.argsort(dim=1).flip(1)
    picked = (ranks <= last) & held
    jaccard = ((picked & labels).sum(dim=1).double() / (picked | labels).sum(dim=1)).cpu().numpy()
    border = falling.gather(1, last)
    tied = ((scores == border).sum(dim=1) > (falling == border).cumsum(dim=1).gather(1, last)[:, 0]).cpu()
    sizes = held.sum(dim=1).cpu().numpy()
    metrics: list[Metric] = []
    samples = {}
    for name, (fewest, most) in SIZES.items():
        chosen = jaccard[(sizes >= fewest) & (sizes <= most)]
        if len(chosen):
            metrics.append(mean(name, chosen))
            samples[name] = PerSample(chosen.tolist())
    details = {
        "instances": len(jaccard),
        "ties": int(tied.sum()),
        "jaccard_by_images": {str(size): float(np.mean(jaccard[sizes == size])) for size in np.unique(sizes)},
        "instances_by_images": {str(size): int((sizes == size).sum()) for size in np.unique(sizes)},
    }
    return Evaluation(tuple(metrics), details, samples)


def _padded(members: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return the samples of instances as rows of equal length, and which of them there are."""
    counts = torch.tensor([len(each) for each in members])
    held = torch.arange(int(counts.max())) < counts[:, None]
    indices = torch.zeros(held.shape, dtype=torch.int64)
    indices[held] = torch.tensor([index for each in members for index in each])
    return indices, held
