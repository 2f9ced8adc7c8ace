"""Alignment of pairs and spread of each view, with hard negatives inside the view only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.negative_sums import excess
from vlp.objectives.shared.view_pairs import agreement, all_views
from vlp.pairs import LSE, Pairs, Request, Stats


@terms.register("dhel")
class DhelTerm(Term):
    """Pull the views of a pair together; push images from images and texts from texts, the closest hardest.

    Koromilas et al. 2024 (arXiv:2405.18045), and MV-DHEL where a batch has further views (arXiv:2507.06979), which
    leaves a sample out of its own negatives as the authors' code does. No image meets the text of another pair: add it
    to a term that contrasts across modalities. Unbounded below.

    Formula: mean_i lse_{j != i} scale x_i.x_j + lse_{j != i} scale y_i.y_j - scale x_i.y_i; with further views
    mean_i sum_l lse_{j != i} scale u_il.u_jl - lse_{l < m} scale u_il.u_im
    """

    min_pairs = 2
    discriminates = False
    reads_views = True
    fixed_scale_advised = True
    others = LSE("row", mask="pair")
    requests = {"image_image": (others,), "text_text": (others,)}

    def plan(self, pairs: Pairs) -> Mapping[str, Sequence[Request]]:
        return {f"{view}_{view}": (self.others,) for view in all_views(pairs)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        spread = torch.stack([stats[block, self.others] for block in self.plan(pairs)]).sum(dim=0)
        return pairs.mean(excess(spread, agreement(pairs)))
