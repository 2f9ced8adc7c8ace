"""Softmax contrast over any number of views of each pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.negative_sums import finite
from vlp.objectives.shared.view_pairs import agreement, all_views
from vlp.pairs import LSE, Pairs, Request, Stats


@terms.register("mv_infonce")
class MultiViewInfoNceTerm(Term):
    """Tell all views of a pair, images and texts alike, from the views of other pairs in one softmax.

    Koromilas et al. 2025 (arXiv:2507.06979). For strategies that make further views; with one image and one text it is
    softmax contrast with one denominator for both directions. Costs a similarity matrix for every two views. Written as
    softplus of wrong minus right, which keeps all digits.

    Formula: mean_i lse_{l != m, j} scale u_il.u_jm - log 2 - lse_{l < m} scale u_il.u_im, u_il view l of pair i

    Args:
        intra_view: The same view of other pairs counts among the negatives too, as in the authors' code.
    """

    min_pairs = 2
    reads_views = True
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")
    requests = {"image_text": (rows, columns)}

    def __init__(self, *, intra_view: bool = False):
        super().__init__()
        self.intra_view = intra_view

    def plan(self, pairs: Pairs) -> Mapping[str, Sequence[Request]]:
        views = all_views(pairs)
        wanted: dict[str, Sequence[Request]] = {}
        wanted |= {f"{one}_{other}": (self.rows, self.columns) for one, other in combinations(views, 2)}
        if self.intra_view:
            wanted |= {f"{view}_{view}": (self.rows,) for view in views}
        return wanted

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        plan = self.plan(pairs).items()
        wrong = [finite(stats[block, request]) for block, requests in plan for request in requests]
        excess = torch.stack(wrong, dim=1).logsumexp(dim=1) - agreement(pairs) - math.log(2)
        return pairs.mean(torch.logaddexp(excess, torch.zeros_like(excess)))
