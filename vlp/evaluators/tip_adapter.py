"""A few images of each class as a memory beside the prompts; nothing is trained."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vlp.evaluators.base import Seed, check_classes, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.probes.few import check_draws, deal_draws, draw_few, score_draws
from vlp.evaluators.probes.train_split import SplitFeatures, open_full_split, read_features
from vlp.evaluators.prompts import class_embeddings, prompts_of
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, RecipeError

CHUNK = 4096  # images at a time


@evaluators.register("tip_adapter")
class TipAdapter:
    """Classify by prompts and by a memory of a few images of each class, over several draws of them.

    Tip-Adapter without its training (Zhang et al. 2022, arXiv:2207.09519, equation 5): logits 100 x.w_c + weight
    sum over remembered images k of class c of exp(-sharpness (1 - x.k)). `acc1_0shot` is the prompts alone; the
    difference is what the images add. Both constants are the paper's and stay as they are, for a search of them would
    take held-out images. Intervals take both draws and test images as chance. A draw of more shots contains that of
    fewer.

    Args:
        shots: Images of each class to remember.
        draws: How often they are drawn, at least twice.
        train_split: Folder of the shards that are drawn from.
        weight: Of the memory beside the prompts (the alpha of the paper).
        sharpness: How fast an image's say falls with its distance (the beta of the paper).
        prompts: File of templates or of prompts for each class, relative to `eval/`; the set's own when absent.
        seed: Which images are drawn.
    """

    def __init__(
        self,
        data: EvaluationSet,
        *,
        shots: tuple[int, ...] = (1, 2, 4, 8, 16),
        draws: int = 5,
        train_split: str = "train",
        weight: float = 1.0,
        sharpness: float = 5.5,
        prompts: str | None = None,
        seed: Seed = 0,
    ):
        check_classes(data)
        check_draws(shots, draws)
        if weight <= 0 or sharpness <= 0:
            raise RecipeError(f"settings.weight is {weight}, settings.sharpness {sharpness}; give positive ones")
        self.data, self.shots, self.draws, self.train_split = data, shots, draws, train_split
        self.weight, self.sharpness, self.seed = weight, sharpness, seed
        self.prompts = prompts_of(data, prompts)
        self.texts = self.prompts.texts

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed both splits and the prompts, remember draws dealt to all processes, and score."""
        classes = class_embeddings(encoder, self.prompts)
        train = read_features(encoder, open_full_split(encoder, self.data, self.train_split), "projected")
        test = read_features(encoder, self.data, "projected")
        alone = (test.features @ classes.T).argmax(dim=1) == test.labels
        hits = deal_draws(
            self.shots, self.draws, lambda number, draw: self._remember(number, draw, train, test, classes)
        )
        rows = {number: np.stack(found) for number, found in hits.items()}
        return score_draws(alone.cpu().numpy(), rows, {"learned_from": [train.told()]})

    def _remember(
        self, number: int, draw: int, train: SplitFeatures, test: SplitFeatures, classes: Float[Tensor, "c d"]
    ) -> NDArray[np.bool_]:
        """Return whether each test image was right, with one draw of images remembered."""
        chosen = torch.from_numpy(draw_few(np.array(train.data.labels), number, self.seed, draw).reshape(-1))
        keys, labels = train.features[chosen], train.labels[chosen]
        predictions = [
            (100 * rows @ classes.T + self.weight * recall(rows, keys, labels, len(classes), self.sharpness)).argmax(1)
            for rows in test.features.split(CHUNK)
        ]
        found: NDArray[np.bool_] = (torch.cat(predictions) == test.labels).cpu().numpy()
        return found


def recall(
    rows: Float[Tensor, "n d"],
    keys: Float[Tensor, "k d"],
    labels: Int64[Tensor, " k"],
    num_classes: int,
    sharpness: float,
) -> Float[Tensor, "n c"]:
    """Return how much remembered images, of unit norm, speak for each class."""
    votes = (-sharpness * (1 - rows @ keys.T)).exp()
    return votes @ functional.one_hot(labels, num_classes).to(votes.dtype)
