"""Small crops of an image predict what an average of past weights says of the whole of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.prototypes import Prototypes
from vlp.objectives.shared.teacher_space import TeacherSpace
from vlp.pairs import Pairs, Stats


@terms.register("self_distillation")
class SelfDistillationTerm(Term):
    """Predict from every further view of an image which prototypes averaged weights find in its first view.

    The local-to-global consistency of SILC (Naeem et al. 2023, arXiv:2310.13355), which SigLIP 2 takes over for the
    last fifth of its training (Tschannen et al. 2025, arXiv:2502.14786); the loss is DINO's (Caron et al. 2021,
    arXiv:2104.14294, section 3.1). Further views are the small crops of `data.views`; without any the first view
    stands for them. The teacher is an average of the model (`strategies.dual_teacher`), and so is its head; to a
    teacher of another width the way is a learned linear map. A companion of a contrastive term; the head is thrown
    away.

    Formula: mean_i - sum_k softmax_k((t_ik - c_k) / teacher_temperature) log softmax_k(s_ik / temperature), cosines
    s = prototypes . head(x) of further views, t = those of the averages for the first view, without gradient; c =
    center_memory c + (1 - center_memory) mean_i t_i

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

    needs = frozenset({"teacher"})
    gradient_is_slope = False
    discriminates = False
    reads_views = True

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
        self.space = TeacherSpace()
        self.teacher_dim: int | None = None

    def fit_teacher(self, embed_dim: int, teacher_dim: int, /) -> None:
        self.space.fit(embed_dim, teacher_dim)
        self.teacher_dim = teacher_dim

    def create(self, embed_dim: int, /) -> None:
        self.prototypes.create(self.teacher_dim or embed_dim)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        teacher = pairs.teacher("image")
        assert teacher is not None, "the objective checks what terms need"
        targets = self.prototypes.targets(pairs, teacher)
        names = pairs.image_names[1:] or pairs.image_names
        views = [self.space(pairs, pairs.view(name)) for name in names]
        missed = [self.prototypes.missed(pairs, view, targets) for view in views]
        return pairs.mean(torch.stack(missed).mean(dim=0))
