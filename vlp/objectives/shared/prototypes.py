"""Prototypes that rows are dealt to: what averages say of one look is predicted from another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from vlp.objectives.shared.heads import mapped
from vlp.pairs import Pairs


class Prototypes(nn.Module):
    """A head with prototypes, averages of both, and a center, between which DINO's loss is taken.

    Caron et al. 2021, section 3.1 (arXiv:2104.14294).

    Args:
        num_prototypes: Unit vectors that are learned.
        hidden_width: Of the two hidden layers of the head.
        bottleneck: Width in which heads and prototypes are compared.
        temperature: Of the prediction.
        teacher_temperature: Of the target.
        center_memory: Weight of the past in what is subtracted from the target.
        decay: Weight of the past in the averaged head.

    Raises:
        ValueError: A size or temperature that is not positive, or a weight outside [0, 1].
    """

    center: Tensor

    def __init__(
        self,
        *,
        num_prototypes: int,
        hidden_width: int,
        bottleneck: int,
        temperature: float,
        teacher_temperature: float,
        center_memory: float,
        decay: float,
    ):
        super().__init__()
        if min(num_prototypes, hidden_width, bottleneck, temperature, teacher_temperature) <= 0:
            raise ValueError(
                "num_prototypes, hidden_width, bottleneck, temperature and teacher_temperature must be positive"
            )
        if not (0 <= center_memory <= 1 and 0 <= decay <= 1):
            raise ValueError(f"center_memory {center_memory} and decay {decay} must lie in [0, 1]")
        self.sizes = (hidden_width, bottleneck, num_prototypes)
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.center_memory = center_memory
        self.decay = decay

    def create(self, width: int) -> None:
        """Make the head for rows of this width."""
        self.head = PrototypeHead(width, *self.sizes)
        self.register_buffer("center", torch.zeros(self.sizes[-1]))
        for name, value in self.head.named_parameters():
            self.register_buffer(_averaged(name), value.detach().clone())

    @torch.no_grad()
    def targets(self, pairs: Pairs, taught: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        """Return what the averages say, and take this batch into them, on every process alike.

        Args:
            taught: Rows of a teacher: one of each pair, or several, as many as of any other.
        """
        averages = {name: self.get_buffer(_averaged(name)) for name, _ in self.head.named_parameters()}
        for name, value in self.head.named_parameters():
            averages[name].lerp_(value, 1 - self.decay)
        found: Tensor = functional_call(self.head, averages, (pairs, taught))
        targets = ((found - self.center) / self.teacher_temperature).softmax(dim=1)
        mean = pairs.total(found.sum(dim=0)) / (pairs.num_pairs * (len(taught) // pairs.num_local))
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.center_memory)
        return targets

    def missed(self, pairs: Pairs, rows: Float[Tensor, "m d"], targets: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
        """Return the cross entropy of what the head says of each row."""
        guess = self.head(pairs, rows) / self.temperature
        return -(targets * guess.log_softmax(dim=1)).sum(dim=1)


class PrototypeHead(nn.Module):
    """Three linear layers and prototypes; gives cosines.

    Args:
        width: Of its inputs.
        hidden_width: Of its two hidden layers.
        bottleneck: Of what is compared with the prototypes.
        num_prototypes: How many numbers it gives.
    """

    def __init__(self, width: int, hidden_width: int, bottleneck: int, num_prototypes: int):
        super().__init__()
        widths = (width, hidden_width, hidden_width, bottleneck)
        self.layers = nn.ModuleList(nn.Linear(widths[place], widths[place + 1]) for place in range(3))
        self.prototypes = nn.Parameter(torch.randn(num_prototypes, bottleneck))

    def forward(self, pairs: Pairs, rows: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        """Return the cosines of this process's rows with all prototypes."""
        first, second, last = self.layers
        rows = functional.gelu(mapped(pairs, first, rows))
        rows = functional.gelu(mapped(pairs, second, rows))
        rows = functional.normalize(mapped(pairs, last, rows), dim=1)
        return rows @ functional.normalize(self.prototypes, dim=1).to(rows.dtype).T


def _averaged(name: str) -> str:
    return f"averaged_{name.replace('.', '_')}"
