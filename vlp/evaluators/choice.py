"""Choice of the right caption among wrong ones: SugarCrepe, ARO, VALSE and their kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.groups import column_of, count_groups, ones
from vlp.evaluators.intervals import proportion
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, Metric, PerSample, RecipeError

CHUNK = 8192


@evaluators.register("choice")
class Choice:
    """Ask whether an image's right caption scores more than each of its wrong ones, as SugarCrepe does.

    A tie is wrong (`accuracy`; Hsieh et al. 2023, arXiv 2306.14610); CLIP_benchmark takes the first of equal scores,
    which is the right caption, so that a tie is right (`accuracy_argmax`). Beside them stands what can be had without
    looking at the image (Hsieh et al. show that such models beat CLIP on ARO): `blind_accuracy` takes the caption
    nearest to the mean of the captions of all other samples, right and wrong, in the model's text space;
    `blind_accuracy_image` that nearest to the mean of all other images; `shortest_accuracy` that of fewest characters.
    These are no language models, as the paper's Vera and grammar model are: a set that they solve is solved without the
    image, a set that they do not may still be. With a group, `macro_accuracy` is the mean over its values (ARO: over
    relations).

    Args:
        prompt: What is made of a caption; `{c}` stands for it.
        group: Column of `data.groups`.
        smallest_group: Leave groups of fewer samples out of the mean, as ARO does below 25 for attributes.
    """

    def __init__(self, data: EvaluationSet, *, prompt: str = "{c}", group: str | None = None, smallest_group: int = 1):
        check_kind(data, "choice")
        self.data = data
        self.groups = None if group is None else column_of(data, group, "settings.group")
        if self.groups is None and smallest_group != 1:
            raise RecipeError("settings.smallest_group has no effect without settings.group")
        if self.groups is not None and smallest_group > np.unique(self.groups, return_counts=True)[1].max():
            raise RecipeError(f"settings.smallest_group={smallest_group} leaves out all groups")
        self.smallest_group = smallest_group
        self.texts = worded(prompt, [text for captions in data.captions for text in captions])

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and captions and choose."""
        images, texts = encoder.images(self.data), encoder.texts(self.texts)
        counts = torch.tensor([len(captions) for captions in self.data.captions])
        lengths = [[float(len(text)) for text in captions] for captions in self.data.captions]
        evaluation = choose(images, texts, counts, lengths)
        if self.groups is None:
            return evaluation
        _, places, sizes = np.unique(self.groups, return_inverse=True, return_counts=True)
        return with_macro(evaluation, self.groups, sizes[places] >= self.smallest_group)


@dataclass(frozen=True)
class Verdicts:
    """How the first of each sample's candidates fares; a row per sample, on the CPU.

    Args:
        strict: It scores more than every other.
        tied: It scores as much as the best other.
        predictions: The best candidate, the first of equal ones.
    """

    strict: Tensor
    tied: Tensor
    predictions: Tensor


def worded(prompt: str, captions: Sequence[str]) -> tuple[str, ...]:
    """Put captions into a prompt.

    Raises:
        RecipeError: It has no place for them.
    """
    if "{c}" not in prompt:
        raise RecipeError(f"settings.prompt '{prompt}' has no {{c}} where the caption goes")
    return tuple(prompt.replace("{c}", caption) for caption in captions)


def choose(
    images: Float32[Tensor, "n d"],
    texts: Float32[Tensor, "m d"],
    counts: Int64[Tensor, " n"],
    lengths: Sequence[Sequence[float]],
) -> Evaluation:
    """Score each image's captions, the right one first, by cosine and by what does not look at the image.

    Args:
        texts: The captions of one image after those of another.
        counts: How many each image has.
        lengths: Characters of each caption.
    """
    image_of_text = torch.repeat_interleave(torch.arange(len(images)), counts).to(images.device)
    found = {"accuracy": judge(_cosines(texts, images, image_of_text), counts)}
    if len(images) > 1:
        own = torch.zeros_like(images).index_add_(0, image_of_text, texts)
        for name, rows, all_rows in (("blind_accuracy", own, texts), ("blind_accuracy_image", images, images)):
            others = torch.nn.functional.normalize(all_rows.double().sum(dim=0) - rows, dim=1).float()
            found[name] = judge(_cosines(texts, others, image_of_text), counts)
    flat = [-length for each in lengths for length in each]
    found["shortest_accuracy"] = judge(torch.tensor(flat), counts)
    metrics = {name: _share(name, verdicts.strict) for name, verdicts in found.items()}
    argmax = found["accuracy"].strict | found["accuracy"].tied
    metrics = {"accuracy": metrics.pop("accuracy"), "accuracy_argmax": _share("accuracy_argmax", argmax), **metrics}
    samples = {name: PerSample(verdicts.strict.double().tolist()) for name, verdicts in found.items()}
    samples["accuracy_argmax"] = PerSample(argmax.double().tolist())
    details = {
        "ties": int(found["accuracy"].tied.sum()),
        "candidates": counts.tolist(),
        "predictions": found["accuracy"].predictions.tolist(),
    }
    return Evaluation(tuple(metrics.values()), details, samples)


def judge(scores: Float32[Tensor, " m"], counts: Int64[Tensor, " n"]) -> Verdicts:
    """Compare the first candidate of each sample with the others; `scores` has those of one sample together."""
    widest = int(counts.max())
    columns = torch.arange(widest, device=scores.device)
    starts = (counts.cumsum(0) - counts).to(scores.device)[:, None]
    held = columns < counts.to(scores.device)[:, None]
    padded = torch.where(held, scores[(starts + columns).clamp(max=len(scores) - 1)], -torch.inf)
    first, best = padded[:, 0], padded[:, 1:].amax(dim=1)
    return Verdicts((first > best).cpu(), (first == best).cpu(), padded.argmax(dim=1).cpu())


def with_macro(evaluation: Evaluation, groups: np.ndarray, counted: np.ndarray) -> Evaluation:
    """Add the mean of the accuracies of groups, over the samples that count."""
    hits = np.array(evaluation.samples["accuracy"].values)[counted] > 0
    found = count_groups(hits, groups[counted])
    metrics = (*evaluation.metrics[:2], found.mean("macro_accuracy"), *evaluation.metrics[2:])
    samples = {"macro_accuracy": PerSample(ones(hits), found.places.tolist())}
    return Evaluation(metrics, evaluation.details | {"groups": found.details()}, evaluation.samples | samples)


def _share(name: str, hits: Tensor) -> Metric:
    return proportion(name, int(hits.sum()), len(hits))


def _cosines(
    texts: Float32[Tensor, "m d"], rows: Float32[Tensor, "n d"], row_of_text: Int64[Tensor, " m"]
) -> Float32[Tensor, " m"]:
    """Score each text against its own row, in chunks."""
    parts = zip(texts.split(CHUNK), row_of_text.split(CHUNK), strict=True)
    return torch.cat([(text * rows[row]).sum(dim=1) for text, row in parts])
