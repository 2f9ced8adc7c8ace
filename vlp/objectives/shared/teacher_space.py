"""The way from embeddings to those of a teacher that has another width."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlp.objectives.shared.heads import mapped
from vlp.pairs import Pairs


class TeacherSpace(nn.Module):
    """Take unit embeddings to where a teacher's lie: as they are where both have one width, else by a learned map.

    One linear map serves images and texts, for the teacher compares them in one space too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.map: nn.Linear | None = None

    def fit(self, embed_dim: int, teacher_dim: int) -> None:
        """Make the map, where one is needed."""
        if embed_dim != teacher_dim:
            self.map = nn.Linear(embed_dim, teacher_dim, bias=False)

    def forward(self, pairs: Pairs, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
        """Return unit rows that can be compared with the teacher's."""
        return rows if self.map is None else functional.normalize(mapped(pairs, self.map, rows), dim=1)
