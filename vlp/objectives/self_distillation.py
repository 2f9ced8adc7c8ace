"""Small crops of an image predict what an average of past weights says of the whole of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.heads import mapped
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
    center: Tensor

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
        if min(num_prototypes, hidden_width, bottleneck, temperature, teacher_temperature) <= 0:
            raise ValueError("num_prototypes, hidden_width, bottleneck and temperatures must be positive")
        if not (0 <= center_memory <= 1 and 0 <= decay <= 1):
            raise ValueError(f"center_memory {center_memory} and decay {decay} must lie in [0, 1]")
        self.sizes = (hidden_width, bottleneck, num_prototypes)
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.center_memory = center_memory
        self.decay = decay
        self.space = TeacherSpace()
        self.teacher_dim: int | None = None

    def fit_teacher(self, embed_dim: int, teacher_dim: int, /) -> None:
        self.space.fit(embed_dim, teacher_dim)
        self.teacher_dim = teacher_dim

    def create(self, embed_dim: int, /) -> None:
        self.head = PrototypeHead(self.teacher_dim or embed_dim, *self.sizes)
        self.register_buffer("center", torch.zeros(self.sizes[-1]))
        for name, value in self.head.named_parameters():
            self.register_buffer(_averaged(name), value.detach().clone())

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        teacher = pairs.teacher("image")
        assert teacher is not None, "the objective checks what terms need"
        targets = self._targets(pairs, teacher)
        names = pairs.image_names[1:] or pairs.image_names
        views = [self.space(pairs, pairs.view(name)) for name in names]
        guesses = [self.head(pairs, view) / self.temperature for view in views]
        missed = [-(targets * guess.log_softmax(dim=1)).sum(dim=1) for guess in guesses]
        return pairs.mean(torch.stack(missed).mean(dim=0))

    @torch.no_grad()
    def _targets(self, pairs: Pairs, teacher: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return what the averages say, and take this batch into them, on every process alike."""
        averages = {name: self.get_buffer(_averaged(name)) for name, _ in self.head.named_parameters()}
        for name, value in self.head.named_parameters():
            averages[name].lerp_(value, 1 - self.decay)
        found: Tensor = functional_call(self.head, averages, (pairs, teacher))
        targets = ((found - self.center) / self.teacher_temperature).softmax(dim=1)
        mean = pairs.total(found.sum(dim=0)) / pairs.num_pairs
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.center_memory)
        return targets


class PrototypeHead(nn.Module):
    """Three linear layers and prototypes; gives cosines.

    Args:
        embed_dim: Width of its inputs.
        hidden_width: Of its two hidden layers.
        bottleneck: Of what is compared with the prototypes.
        num_prototypes: How many numbers it gives.
    """

    def __init__(self, embed_dim: int, hidden_width: int, bottleneck: int, num_prototypes: int):
        super().__init__()
        widths = (embed_dim, hidden_width, hidden_width, bottleneck)
        self.layers = nn.ModuleList(nn.Linear(widths[place], widths[place + 1]) for place in range(3))
        self.prototypes = nn.Parameter(torch.randn(num_prototypes, bottleneck))

    def forward(self, pairs: Pairs, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the cosines of this process's rows with all prototypes."""
        first, second, last = self.layers
        rows = functional.gelu(mapped(pairs, first, rows))
        rows = functional.gelu(mapped(pairs, second, rows))
        rows = functional.normalize(mapped(pairs, last, rows), dim=1)
        return rows @ functional.normalize(self.prototypes, dim=1).to(rows.dtype).T


def _averaged(name: str) -> str:
    return f"averaged_{name.replace('.', '_')}"
