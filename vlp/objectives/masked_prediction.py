"""Patches that the image tower does not see are predicted: what averaged weights, which see them, say of each."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.prototypes import Prototypes
from vlp.pairs import Pairs, Stats


@terms.register("masked_prediction")
class MaskedPredictionTerm(Term):
    """Predict, at each hidden patch, which prototypes averaged weights find in it.

    The masked prediction of SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786), after TIPS (Maninis et al. 2024,
    arXiv:2410.16512) and iBOT (Zhou et al. 2021, arXiv:2111.07832): the loss of `self_distillation` on the features of
    patches, with a head and a center of its own, where a learned token stands in for half of them. The teacher is an
    average of the image tower (`strategies.local_to_global`), and so is its head; head and token are thrown away. A
    companion of a contrastive term: SigLIP 2 adds it for the last fifth, with a quarter of the weight of
    `self_distillation`. Three matrices of hidden patches times prototypes are held.

    Formula: mean over hidden patches p of - sum_k softmax_k((t_pk - c_k) / teacher_temperature) log softmax_k(s_pk /
    temperature), cosines s = prototypes . head(x), t = those of the averages, without gradient; c = center_memory c +
    (1 - center_memory) mean_p t_p

    Args:
        num_prototypes: Unit vectors that are learned.
        hidden_width: Of the two hidden layers of the head.
        bottleneck: Width in which heads and prototypes are compared.
        temperature: Of the prediction.
        teacher_temperature: Of the target; below `temperature` it sharpens, against a collapse to equal shares.
        center_memory: Weight of the past in what is subtracted, against a collapse to one prototype.
        decay: Weight of the past in the averaged head.

    Raises:
        ValueError: A size or temperature that is not positive, or a weight outside [0, 1].
    """

    needs = frozenset({"hidden_patches"})
    gradient_is_slope = False
    discriminates = False

    def __init__(
        self,
        *,
        num_prototypes: int = 4096,
        hidden_width: int = 2048,
        bottleneck: int = 256,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_memory: float = 0.9,
        decay: float = 0.996,
    ):
        super().__init__()
        self.prototypes = Prototypes(
            num_prototypes=num_prototypes,
            hidden_width=hidden_width,
            bottleneck=bottleneck,
            temperature=temperature,
            teacher_temperature=teacher_temperature,
            center_memory=center_memory,
            decay=decay,
        )
        self.channels: int | None = None

    def fit_maps(self, channels: int, /) -> None:
        self.channels = channels

    def create(self, embed_dim: int, /) -> None:
        width = self.channels or embed_dim
        self.prototypes.create(width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))

    def lent(self) -> dict[str, nn.Parameter]:
        return {"mask_token": self.mask_token}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        guessed, taught = pairs.embeddings.hidden_patches, pairs.embeddings.taught_patches
        assert guessed is not None, "the objective checks what terms need"
        assert taught is not None, "they come together"
        targets = self.prototypes.targets(pairs, taught.flatten(0, 1))
        missed = self.prototypes.missed(pairs, guessed.flatten(0, 1), targets)
        return pairs.mean(missed.view(guessed.shape[:2]).mean(dim=1))
