"""Zero-shot classification: the class whose prompts lie nearest to the image."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean_of_proportions, proportion
from vlp.evaluators.layout import CLASS_NAMES
from vlp.evaluators.prompts import class_embeddings, fill, templates_of
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, RecipeError

CHUNK = 4096
LARGEST_CONFUSION = 100


@evaluators.register("zero_shot")
class ZeroShot:
    """Classify images by prompts, by the protocol of CLIP_benchmark and open_clip (Radford et al. 2021, 3.1).

    Among classes of equal score the first wins (`acc1`); `acc1_strict` counts such a tie as wrong.

    Args:
        prompts: File of templates relative to `eval/`; the set's own when absent.
    """

    def __init__(self, data: EvaluationSet, *, prompts: str | None = None):
        check_kind(data, "classification")
        if not data.class_names:
            raise RecipeError(f"{data.folder.locate(CLASS_NAMES)}: no such file; add it or set data.class_names")
        self.data = data
        self.templates = templates_of(data, prompts)
        self.texts = fill(self.templates, data.class_names)

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and prompts and score the classes."""
        classes = class_embeddings(encoder, self.texts, len(self.data.class_names))
        labels = torch.tensor(self.data.labels)
        return classify(encoder.images(self.data), classes, labels, self.data.class_names, len(self.templates))


def classify(
    images: Float32[Tensor, "n d"],
    classes: Float32[Tensor, "c d"],
    labels: Int64[Tensor, " n"],
    class_names: tuple[str, ...],
    num_templates: int,
) -> Evaluation:
    """Score images against classes; mean per-class recall leaves out classes without images, as scikit-learn does."""
    num_classes = len(classes)
    predictions, ranks, tied = rank_classes(images, classes, labels)
    hits = predictions == labels
    strict = hits & ~tied
    counts = np.bincount(labels.numpy(), minlength=num_classes)
    class_hits = np.bincount(labels[hits].numpy(), minlength=num_classes)
    metrics = [
        proportion("acc1", int(hits.sum()), len(labels)),
        mean_of_proportions("mean_per_class_recall", class_hits, counts),
        proportion("acc1_strict", int(strict.sum()), len(labels)),
    ]
    if num_classes >= 5:
        metrics.insert(1, proportion("acc5", int((ranks <= 5).sum()), len(labels)))
    details = {
        "class_names": list(class_names),
        "samples_per_class": counts.tolist(),
        "hits_per_class": class_hits.tolist(),
        "ties": int(tied.sum()),
        "templates": num_templates,
        "predictions": predictions.tolist(),
        "ranks": ranks.tolist(),
    }
    if num_classes <= LARGEST_CONFUSION:
        cells = np.bincount((labels * num_classes + predictions).numpy(), minlength=num_classes**2)
        details["confusion"] = cells.reshape(num_classes, num_classes).tolist()
    return Evaluation(tuple(metrics), details)


def rank_classes(
    images: Float32[Tensor, "n d"], classes: Float32[Tensor, "c d"], labels: Int64[Tensor, " n"]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Tensor]:
    """Return the best class, the rank of the true class (earlier classes win ties) and whether the best was tied."""
    predictions, ranks, tied = [], [], []
    order = torch.arange(len(classes))
    for rows, truth in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
        scores = rows @ classes.T
        true_score = scores.gather(1, truth[:, None])
        ahead = (scores > true_score) | ((scores == true_score) & (order < truth[:, None]))
        best = scores.argmax(dim=1)
        predictions.append(best)
        ranks.append(ahead.sum(dim=1) + 1)
        tied.append((scores == scores.gather(1, best[:, None])).sum(dim=1) > 1)
    return torch.cat(predictions), torch.cat(ranks), torch.cat(tied)
