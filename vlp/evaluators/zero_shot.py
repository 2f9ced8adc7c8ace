"""Zero-shot classification: the class whose prompts lie nearest to the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from vlp.evaluators.base import check_classes, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.f1 import macro_f1
from vlp.evaluators.groups import check_ignored, column_of, ones, score_groups
from vlp.evaluators.hierarchy import score_superclasses, superclasses_of
from vlp.evaluators.intervals import mean_of_proportions, proportion
from vlp.evaluators.prompts import class_embeddings, prompts_of
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, PerSample, RecipeError

CHUNK = 4096
LARGEST_CONFUSION = 100


@evaluators.register("zero_shot")
class ZeroShot:
    """Classify images by prompts, by the protocol of CLIP_benchmark and open_clip (Radford et al. 2021, 3.1).

    Among classes of equal score the first wins (`acc1`); `acc1_strict` counts such a tie as wrong. `macro_f1` is
    WILDS's for iWildCam: the mean over classes with images. With a group, `worst_group_acc1` is the accuracy of the
    worst one and `mean_group_acc1` their mean (WILDS, arXiv 2012.07421; Dollar Street; GeoDE). With a hierarchy,
    `acc1_super` says whether the best class has the right superclass, and `acc1_super_mean` takes the superclass whose
    classes score best on average.

    Args:
        prompts: File relative to `eval/`: templates, or for each class its own prompts (YAML or JSON: class name to
            list of prompts); the set's own templates when absent.
        group: Column of `data.groups`.
        ignore_groups: Values of that column that cannot be the worst group.
        top: A sample of a group is right if its class is among so many best: 1 for `worst_group_acc1`, 5 for
            `worst_group_acc5`.
        hierarchy: File relative to `eval/`, YAML or JSON: class name to superclass.
    """

    def __init__(
        self,
        data: EvaluationSet,
        *,
        prompts: str | None = None,
        group: str | None = None,
        ignore_groups: tuple[int, ...] = (),
        top: int = 1,
        hierarchy: str | None = None,
    ):
        check_classes(data)
        if group is None and (ignore_groups or top != 1):
            raise RecipeError("settings.ignore_groups and settings.top have no effect without settings.group")
        if not 1 <= top <= len(data.class_names):
            raise RecipeError(f"settings.top is {top}, and there are {len(data.class_names)} classes")
        self.data = data
        self.group, self.ignored, self.top = group, ignore_groups, top
        if group is not None:
            check_ignored(column_of(data, group, "settings.group"), ignore_groups, "settings.ignore_groups")
        self.superclasses = superclasses_of(hierarchy, data.class_names) if hierarchy else None
        self.prompts = prompts_of(data, prompts)
        self.texts = self.prompts.texts

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and prompts and score the classes."""
        classes = class_embeddings(encoder, self.prompts)
        images = encoder.images(self.data)
        labels = torch.tensor(self.data.labels, device=images.device)
        ranked = rank_classes(images, classes, labels)
        parts = [summarise(ranked, labels, self.data.class_names, max(self.prompts.counts))]
        if self.group is not None:
            hits = (ranked.ranks <= self.top).cpu().numpy()
            groups = self.data.groups[self.group]
            parts.append(score_groups(hits, groups, f"acc{self.top}", self.group, self.ignored))
        if self.superclasses is not None:
            names, superclass = self.superclasses
            parts.append(score_superclasses(images, classes, ranked.predictions, labels, superclass, names))
        return join(parts)


@dataclass(frozen=True)
class RankedClasses:
    """What classes images are taken for, and where their own class stands.

    Args:
        ranks: Rank of the true class, from 1; earlier classes win ties.
        tied: Whether another class scores as much as the predicted one.
    """

    predictions: Int64[Tensor, " n"]
    ranks: Int64[Tensor, " n"]
    tied: Bool[Tensor, " n"]


def join(parts: list[Evaluation]) -> Evaluation:
    """Put together what was found out of one set."""
    metrics = tuple(metric for part in parts for metric in part.metrics)
    details = {name: value for part in parts for name, value in part.details.items()}
    return Evaluation(metrics, details, {name: value for part in parts for name, value in part.samples.items()})


def classify(
    images: Float32[Tensor, "n d"],
    classes: Float32[Tensor, "c d"],
    labels: Int64[Tensor, " n"],
    class_names: tuple[str, ...],
    num_templates: int,
) -> Evaluation:
    """Score images against classes, on the device where they lie."""
    labels = labels.to(images.device)
    return summarise(rank_classes(images, classes, labels), labels, class_names, num_templates)


def summarise(
    ranked: RankedClasses, labels: Int64[Tensor, " n"], class_names: tuple[str, ...], num_templates: int | None = None
) -> Evaluation:
    """Count hits; mean per-class recall leaves out classes without images, as scikit-learn does.

    Args:
        num_templates: Prompts of a class, at most; None where prompts do not classify.
    """
    num_classes = len(class_names)
    truth, found, ranks, tied = (
        tensor.cpu().numpy() for tensor in (labels, ranked.predictions, ranked.ranks, ranked.tied)
    )
    hits = found == truth
    counts = np.bincount(truth, minlength=num_classes)
    class_hits = np.bincount(truth[hits], minlength=num_classes)
    f1, f1_samples = macro_f1(found, truth, num_classes)
    within = {"acc1": hits, "acc5": ranks <= 5, "acc1_strict": hits & ~tied}
    if num_classes < 5:
        del within["acc5"]
    metrics = [proportion(name, int(right.sum()), len(truth)) for name, right in within.items()]
    metrics.insert(-1, mean_of_proportions("mean_per_class_recall", class_hits, counts))
    samples = {name: PerSample(ones(right)) for name, right in within.items()}
    samples["mean_per_class_recall"] = PerSample(samples["acc1"].values, truth.tolist())
    samples["macro_f1"] = f1_samples
    details = {
        "class_names": list(class_names),
        "samples_per_class": counts.tolist(),
        "hits_per_class": class_hits.tolist(),
        "ties": int(tied.sum()),
        "predictions": found.tolist(),
        "ranks": ranks.tolist(),
    }
    if num_templates is not None:
        details["templates"] = num_templates
    if num_classes <= LARGEST_CONFUSION:
        cells = np.bincount(truth * num_classes + found, minlength=num_classes**2)
        details["confusion"] = cells.reshape(num_classes, num_classes).tolist()
    return Evaluation((*metrics, f1), details, samples)


def rank_classes(
    images: Float32[Tensor, "n d"], classes: Float32[Tensor, "c d"], labels: Int64[Tensor, " n"]
) -> RankedClasses:
    """Rank classes for each image, in chunks."""
    predictions, ranks, tied = [], [], []
    order = torch.arange(len(classes), device=images.device)
    for rows, truth in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
        scores = rows @ classes.T
        true_score = scores.gather(1, truth[:, None])
        ahead = (scores > true_score) | ((scores == true_score) & (order < truth[:, None]))
        best = scores.argmax(dim=1)
        predictions.append(best)
        ranks.append(ahead.sum(dim=1) + 1)
        tied.append((scores == scores.gather(1, best[:, None])).sum(dim=1) > 1)
    return RankedClasses(torch.cat(predictions), torch.cat(ranks), torch.cat(tied))
