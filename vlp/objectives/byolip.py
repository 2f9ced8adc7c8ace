"""Each modality predicts what an average of past weights says about the other."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.heads import DirectMap, Perceptron, miss
from vlp.pairs import Pairs, Stats


@terms.register("byolip")
class ByolipTerm(Term):
    """Predict the teacher's embedding of each text from its image and the other way round.

    BYOLIP, Fini et al. 2023 (arXiv:2305.08675); the `direct` predictor is DirectPred, Tian et al. 2021
    (arXiv:2102.06810): a linear map that follows from the correlation of its inputs, without gradient. A
    companion of a contrastive term. Mean over all image views and over all text views. `direct` decomposes two
    matrices of the embeddings' width in each step, and needs a teacher of that width.

    Formula: mean_i 2 - 2 cos(p(x_i), teacher y_i) in both directions; direct: p(x) = U (sqrt(L / max L) + 0.01) U' x,
    U L U' = F, F = memory F + (1 - memory) mean_i x_i x_i'

    Args:
        predictor: A perceptron that learns, or the direct map.
        hidden_width: Of the perceptron; None takes 2048.
        memory: Weight of the past in the correlation of the direct map; None takes 0.3.

    Raises:
        ValueError: A setting of the other predictor, or `memory` outside [0, 1).
    """

    needs = frozenset({"teacher"})
    discriminates = False
    reads_views = True

    def __init__(
        self,
        *,
        predictor: Literal["mlp", "direct"] = "mlp",
        hidden_width: int | None = None,
        memory: float | None = None,
    ):
        super().__init__()
        if (hidden_width is not None and predictor == "direct") or (memory is not None and predictor == "mlp"):
            raise ValueError("hidden_width belongs to predictor mlp, memory to direct: leave the other one out")
        if hidden_width is not None and hidden_width < 1:
            raise ValueError(f"hidden_width {hidden_width} must be at least 1")
        if memory is not None and not 0 <= memory < 1:
            raise ValueError(f"memory {memory} must lie in [0, 1)")
        self.is_direct = predictor == "direct"
        self.hidden_width = hidden_width or 2048
        self.memory = 0.3 if memory is None else memory
        self.teacher_dim: int | None = None
        self.min_pairs = 1 if self.is_direct else 2
        self.gradient_is_slope = not self.is_direct

    def fit_teacher(self, embed_dim: int, teacher_dim: int, /) -> None:
        if self.is_direct and teacher_dim != embed_dim:
            raise ValueError(
                f"predictor direct keeps the width {embed_dim} of the embeddings, and the teacher's have "
                f"{teacher_dim}: set predictor to mlp"
            )
        self.teacher_dim = teacher_dim

    def create(self, embed_dim: int, /) -> None:
        self.predict_text, self.predict_image = self._head(embed_dim), self._head(embed_dim)

    def _head(self, embed_dim: int) -> Perceptron | DirectMap:
        if self.is_direct:
            return DirectMap(embed_dim, self.memory)
        return Perceptron(embed_dim, self.hidden_width, self.teacher_dim or embed_dim)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        texts, images = pairs.teacher("text"), pairs.teacher("image")
        assert texts is not None, "the objective checks what terms need"
        assert images is not None, "the objective checks what terms need"
        to_text = [miss(self.predict_text(pairs, pairs.view(name)), texts) for name in pairs.image_names]
        to_image = [miss(self.predict_image(pairs, pairs.view(name)), images) for name in pairs.text_names]
        return pairs.mean((torch.stack(to_text).mean(dim=0) + torch.stack(to_image).mean(dim=0)) / 2)
