"""Softmax contrast with one more positive for each pair, made up by a small network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.pairs import LSE, Pairs, Stats, at_least_float32

SALT = 0x4A11


@terms.register("hallucinator")
class HallucinatorTerm(Term):
    """Add to softmax contrast a second text for each image: its own, moved by a perceptron away from the image.

    Adapted from Wu et al. 2023 (arXiv:2307.12168), whose formula we could not check; there between views. The
    perceptron is a parameter of the term and thrown away after training. Its texts meet the same negatives as the real
    ones. Only from images to texts: the made text is nobody's query.

    Formula: clip + weight * mean_i log(exp(scale x_i.h_i) + sum_{j != i} exp(z_ij)) - scale x_i.h_i,
    h_i = norm(y_i + MLP(y_i + l (y_i - x_i))), no gradient through that x_i, l uniform in (0, max_distance)

    Args:
        hallucination_weight: Of the second text.
        hidden: Width of the perceptron; None takes that of the embeddings.
        max_distance: How far beyond the text, in distances of the pair, the perceptron looks at most.

    Raises:
        ValueError: A negative weight or distance, or `hidden` below 1.
    """

    gradient_is_slope = False
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")
    requests = {"image_text": (rows, columns)}

    def __init__(self, *, hallucination_weight: float = 1.0, hidden: int | None = None, max_distance: float = 1.0):
        super().__init__()
        if hallucination_weight < 0 or max_distance < 0:
            raise ValueError("hallucination_weight and max_distance must not be negative")
        if hidden is not None and hidden < 1:
            raise ValueError(f"hidden {hidden} must be at least 1")
        self.hallucination_weight, self.hidden, self.max_distance = hallucination_weight, hidden, max_distance

    def create(self, embed_dim: int, /) -> None:
        hidden = self.hidden or embed_dim
        self.perceptron = nn.Sequential(nn.Linear(embed_dim, hidden), nn.GELU(), nn.Linear(hidden, embed_dim))

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        wrong = stats["image_text", self.rows]
        contrast = (pairs.miss(wrong) + pairs.miss(stats["image_text", self.columns])) / 2
        made = pairs.scale * (pairs.image * self.hallucinate(pairs)).sum(dim=1)
        return pairs.mean(contrast + self.hallucination_weight * torch.logaddexp(wrong - made, torch.zeros_like(made)))

    def hallucinate(self, pairs: Pairs) -> Float[Tensor, "n d"]:
        """Return the made text of each pair of this process."""
        text = pairs.text.to(next(self.perceptron.parameters()).dtype)
        distance = self.max_distance * pairs.draws(1, SALT)
        with pairs.own_network():
            move = self.perceptron(text + distance * (text - pairs.image.detach()))
        return functional.normalize(text + at_least_float32(move), dim=1)
