"""Words in front of class names, learned from one to sixteen images of each class."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from vlp.evaluators.base import Seed, check_classes, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.probes.class_contexts import ClassContexts
from vlp.evaluators.probes.few import check_draws, deal_draws, draw_few, score_draws
from vlp.evaluators.probes.learned_prompts import Learning, Prompts, SeenImages, go_through, learn, logits
from vlp.evaluators.probes.train_split import SplitFeatures, open_full_split, read_features
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.ranges import Count
from vlp.ground.types import Evaluation

CHUNK = 4096  # images at a time


@evaluators.register("coop_prompts")
class CoopPrompts:
    """Learn vectors in front of class names from a few images of each class, over several draws of them.

    CoOp (Zhou et al. 2022, arXiv:2109.01134) with its class names at the end, its start from words, SGD with momentum
    0.9 and weight decay 5e-4, a first epoch at 1e-5 and half a cosine: nothing but these vectors learns, by the
    cross-entropy of the classes. `acc1_0shot` is the prompt `CONTEXT NAME.` before it has learned. Intervals take both
    draws and test images as chance. A draw of more shots contains that of fewer. Adapted: images are learned from as
    they are evaluated, where the authors crop them at random; each is embedded once. A draw embeds a text per class and
    step. Models whose token embeddings are out of reach (ONNX files, `RUN@HEAD`) are refused, and so are those with
    learned tokens of their own.

    Args:
        shots: Images of each class to learn from.
        draws: How often they are drawn, at least twice.
        train_split: Folder of the shards that are drawn from.
        context: Words that the vectors begin as, a vector per token.
        epochs: Passes over these images; the paper's when absent: 50 for one shot, 100 up to four, 200 beyond.
        batch_size: Images of a step.
        learning_rate: Of SGD, after the first epoch.
        seed: Which images are drawn, and in which order they are shown.
    """

    def __init__(
        self,
        data: EvaluationSet,
        *,
        shots: tuple[int, ...] = (1, 2, 4, 8, 16),
        draws: int = 5,
        train_split: str = "train",
        context: str = "a photo of a",
        epochs: Count | None = None,
        batch_size: Count = 32,
        learning_rate: float = 0.002,
        seed: Seed = 0,
    ):
        check_classes(data)
        check_draws(shots, draws)
        self.data, self.shots, self.draws, self.train_split = data, shots, draws, train_split
        self.context, self.seed = context, seed
        self.how = {
            number: Learning(_epochs(number) if epochs is None else epochs, batch_size, learning_rate)
            for number in shots
        }
        self.texts = tuple(f"{context} {name}." for name in data.class_names)

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed both splits, learn from draws dealt to all processes, and score."""
        contexts = ClassContexts(encoder.encoder, self.data.class_names, self.context)
        train = read_features(encoder, open_full_split(encoder, self.data, self.train_split), "projected")
        test = read_features(encoder, self.data, "projected")
        found = deal_draws(
            self.shots, self.draws, lambda number, draw: self._learn(number, draw, train, contexts, encoder)
        )
        with torch.no_grad():
            alone = self._hits(test, contexts.embed(contexts.start[None])[0])
        hits = {
            number: np.stack([self._hits(test, texts.to(test.features.device)) for texts in learned])
            for number, learned in found.items()
        }
        counts = {f"{each}shot": self._count(each, len(contexts)) for each in self.shots}
        return score_draws(alone, hits, {"learned_from": [train.told()], "texts_of_a_draw": counts})

    def _count(self, number: int, num_classes: int) -> int:
        return self.how[number].texts(number * num_classes, num_classes, per_image=False)

    def _learn(
        self, number: int, draw: int, train: SplitFeatures, contexts: ClassContexts, encoder: SharedEncoder
    ) -> Float32[Tensor, "c d"]:
        """Return the texts of the classes after learning from one draw; on the CPU, as they travel."""
        places = torch.from_numpy(draw_few(np.array(train.data.labels), number, self.seed, draw).reshape(-1))
        places = places.to(train.features.device)
        prompts, how = Prompts(contexts.start), self.how[number]
        images, labels, seed = SeenImages(train.features[places]), train.labels[places], (self.seed, draw, number)
        steps = learn(prompts, contexts, images, labels, how, scale=encoder.scale, seed=seed)
        go_through(steps, how, number, draw, self._count(number, len(contexts)), progress=encoder.progress)
        with torch.no_grad():
            return contexts.embed(prompts(None))[0].cpu()

    def _hits(self, test: SplitFeatures, texts: Float32[Tensor, "c d"]) -> NDArray[np.bool_]:
        """Return whether each test image was right."""
        found = torch.cat([logits(rows, texts[None]).argmax(dim=1) for rows in test.features.split(CHUNK)])
        hits: NDArray[np.bool_] = (found == test.labels).cpu().numpy()
        return hits


def _epochs(shots: int) -> int:
    return 50 if shots == 1 else 100 if shots <= 4 else 200
