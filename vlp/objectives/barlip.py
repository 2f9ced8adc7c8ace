"""Redundancy reduction between images and texts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.heads import Perceptron, standardize
from vlp.pairs import Pairs, Stats


@terms.register("barlip")
class BarlipTerm(Term):
    """Make each projected feature of images correlate with the same feature of texts, and with no other.

    BarLIP, Fini et al. 2023 (arXiv:2305.08675), after Barlow Twins (arXiv:2103.03230). A companion of a
    contrastive term: with a strong recipe the authors found no gain. Each modality has a projector of three layers,
    normalised over the whole batch and thrown away after training; here it starts from the embeddings. Mean over all
    pairs of an image view and a text view.

    Formula: factor [sum_a (C_aa - 1)^2 + redundancy sum_{a != b} C_ab^2], C_ab = mean_i u_ia v_ib of standardised
    projections u of images and v of texts

    Args:
        hidden_width: Of the projectors (the authors': 3000).
        width: Features of the projections; C has its square (the authors': 8192).
        redundancy: Weight of the entries off the diagonal.
        factor: Of the whole.
    """

    min_pairs = 2
    discriminates = False
    reads_views = True

    def __init__(self, *, hidden_width: int = 512, width: int = 1024, redundancy: float = 0.005, factor: float = 0.025):
        super().__init__()
        if min(hidden_width, width) < 1:
            raise ValueError(f"hidden_width {hidden_width} and width {width} must be at least 1")
        if redundancy < 0 or factor <= 0:
            raise ValueError(f"redundancy {redundancy} must be at least 0, factor {factor} above 0")
        self.hidden_width = hidden_width
        self.width = width
        self.redundancy = redundancy
        self.factor = factor

    def create(self, embed_dim: int, /) -> None:
        widths = (embed_dim, self.hidden_width, self.hidden_width, self.width)
        self.project_image, self.project_text = Perceptron(*widths), Perceptron(*widths)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        images = [standardize(pairs, self.project_image(pairs, pairs.view(name))) for name in pairs.image_names]
        texts = [standardize(pairs, self.project_text(pairs, pairs.view(name))) for name in pairs.text_names]
        losses = [self._excess(pairs.total(u.T @ v) / pairs.num_pairs) for u in images for v in texts]
        return pairs.share(self.factor * torch.stack(losses).mean())

    def _excess(self, correlation: Float[Tensor, "e e"]) -> Float[Tensor, ""]:
        """Return the weighted squared distance from the identity."""
        diagonal = correlation.diagonal()
        others = correlation.square().sum() - diagonal.square().sum()
        return (diagonal - 1).square().sum() + self.redundancy * others
