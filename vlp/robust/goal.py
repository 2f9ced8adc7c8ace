"""What the queries of a set are held against, and which of it is right: the same for classes, captions and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from vlp.evaluators.prompts import class_embeddings
from vlp.evaluators.shared import SharedEncoder

QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Goal:
    """What an attack keeps queries from finding.

    Args:
        candidates: Embeddings of all that a query may be taken for.
        names: What each candidate is called.
        kinds: Candidates of one number are alike: the classes themselves, or captions of the same words.
        right: The numbers that are right for each query.
        direction: What names of metrics begin with that are about these queries.
    """

    candidates: Float32[Tensor, "m d"]
    names: Sequence[str]
    kinds: Int64[Tensor, " m"]
    right: Sequence[Sequence[int]]
    direction: str

    def __len__(self) -> int:
        return len(self.right)

    def positives(self, places: Sequence[int]) -> Bool[Tensor, "k m"]:
        """Return which candidates are right for some queries."""
        kinds = self.kinds
        return torch.stack([torch.isin(kinds, kinds.new_tensor(self.right[place])) for place in places])

    def ranks(self, queries: Float32[Tensor, "n d"]) -> Int64[Tensor, " n"]:
        """Return the rank of the best right candidate of each query, from 1; what scores as much stands before it."""
        found = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            rows = queries[start : start + QUERIES_AT_ONCE].to(self.candidates.device)
            scores = rows @ self.candidates.T
            positives = self.positives(range(start, start + len(rows)))
            best = scores.masked_fill(~positives, -torch.inf).amax(dim=1, keepdim=True)
            found.append(((scores >= best) & ~positives).sum(dim=1) + 1)
        return torch.cat(found).cpu()


def goal_of_classes(evaluator: Any, encoder: SharedEncoder) -> Goal:
    """Return the goal of images that are classified by prompts: to be taken for their class."""
    classes = class_embeddings(encoder, evaluator.prompts)
    names = evaluator.data.class_names
    kinds = torch.arange(len(names), device=classes.device)
    return Goal(classes, names, kinds, [[label] for label in evaluator.data.labels], "")


def goal_of_images(evaluator: Any, encoder: SharedEncoder) -> Goal:
    """Return the goal of images that are searched with: to find a caption of theirs."""
    texts = evaluator.texts
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    kinds = [numbers[text] for text in texts]
    right: list[list[int]] = [[] for _ in range(len(evaluator.data))]
    for image, kind in zip(evaluator.image_of_text.tolist(), kinds, strict=True):
        right[image].append(kind)
    rows = encoder.texts(texts)
    return Goal(rows, texts, torch.tensor(kinds, device=rows.device), right, "image_to_text_")


def goal_of_captions(evaluator: Any, images: Float32[Tensor, "n d"]) -> Goal:
    """Return the goal of captions that are searched with: to find their image, or one that has the same caption."""
    owners: dict[str, list[int]] = {}
    for text, image in zip(evaluator.texts, evaluator.image_of_text.tolist(), strict=True):
        owners.setdefault(text, []).append(image)
    names = [sample.key for sample in evaluator.data.samples]
    kinds = torch.arange(len(images), device=images.device)
    return Goal(images, names, kinds, [owners[text] for text in evaluator.texts], "text_to_image_")


CLASSES, CAPTIONS = "zero_shot", "retrieval"
GOALS: dict[str, Callable[[Any, SharedEncoder], Goal]] = {
    CLASSES: goal_of_classes,
    CAPTIONS: goal_of_images,
}
"""What images are to find, by the evaluators that can be attacked."""
