"""Each place of a view predicts what averaged weights say of the same place in another view."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.heads import Perceptron, mapped
from vlp.objectives.shared.rising_decay import rising_decay
from vlp.objectives.shared.same_place import same_place
from vlp.pairs import Pairs, Stats, at_least_float32

Maps = Float[Tensor, "n p c"]
FEW = 1e-6  # of their code: no pairs of places in the denominator


@terms.register("pixpro")
class PixProTerm(Term):
    """Predict from the places of one view what averaged weights say of the same places in the other, both ways.

    Pixel-to-propagation consistency (PixPro, Xie et al. 2021, arXiv:2011.10043, equations 2 to 5), on the map of the
    image tower's last layer. A place of the learning branch gathers from all places of its
    view that resemble it. Two places are the same if their centres, in the picture, lie nearer than `reach` diagonals
    of the larger of their bins; crops that share no place add nothing. The first two image views are compared; those of
    `data.views` have crops of their own. The teacher is an average of the tower (`strategies.dense_teacher`), and so is
    its head; heads and propagation are thrown away. A companion of a contrastive term, which stands for the loss of
    whole images that the paper adds.

    Formula: - mean_i (mean cos(y_ia, x'_ib) over same places a of view 1, b of view 2, + the same of views 2 and 1);
    y_a = sum_b max(cos(x_a, x_b), 0)^sharpness g(x_b) / |g(x_b)|, x = head(map), x' = averaged head(averaged map)

    Args:
        hidden_width: Of the head, two layers with batch normalisation between.
        width: In which places are compared.
        sharpness: Exponent of similarity.
        reach: Largest distance of two places that are the same, in diagonals of a bin.
        decay: Weight of the past in the averaged head; as in `strategies.dense_teacher`.
        last_step: Let `decay` rise to 1 by half a cosine until this step; null leaves it.

    Raises:
        ValueError: A size, `sharpness`, `reach` or `last_step` that is not positive, or a `decay` outside [0, 1].
    """

    needs = frozenset({"maps", "taught_maps"})
    discriminates = False
    compares_views = True

    def __init__(
        self,
        *,
        hidden_width: int = 2048,
        width: int = 256,
        sharpness: float = 2.0,
        reach: float = 0.7,
        decay: float = 0.99,
        last_step: int | None = None,
    ):
        super().__init__()
        if min(hidden_width, width, sharpness, reach, 1 if last_step is None else last_step) <= 0:
            raise ValueError("hidden_width, width, sharpness, reach and last_step must be positive")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay {decay} must lie in [0, 1]")
        self.hidden_width = hidden_width
        self.width = width
        self.sharpness = sharpness
        self.reach = reach
        self.decay = decay
        self.last_step = last_step
        self.channels: int | None = None

    def fit_maps(self, channels: int, /) -> None:
        self.channels = channels

    def create(self, embed_dim: int, /) -> None:
        self.head = Perceptron(self.channels or embed_dim, self.hidden_width, self.width)
        self.value = nn.Linear(self.width, self.width)
        for name, value in self.head.named_parameters():
            self.register_buffer(_averaged(name), value.detach().clone())

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        said = pairs.embeddings
        first, second, *_ = (self._propagated(pairs, self._in_places(pairs, each)) for each in said.image_maps[:2])
        taught = self._taught(pairs)
        shape = said.image_maps[0].shape[1], said.image_maps[0].shape[2]
        same = same_place(said.image_cuts[0], said.image_cuts[1], shape, self.reach)
        both = _agreement(first, taught[1], same) + _agreement(second, taught[0], same.transpose(1, 2))
        return -pairs.mean(both)

    def _in_places(self, pairs: Pairs, maps: Float[Tensor, "n h w c"]) -> Maps:
        """Return the places of maps behind the head."""
        places = maps.flatten(1, 2)
        found: Tensor = self.head(pairs, places.flatten(0, 1))
        return found.unflatten(0, places.shape[:2])

    def _propagated(self, pairs: Pairs, places: Maps) -> Maps:
        """Return what each place gathers from those that resemble it."""
        unit = functional.normalize(places, dim=2)
        resemblance = (unit @ unit.transpose(1, 2)).clamp(min=0) ** self.sharpness
        values = functional.normalize(mapped(pairs, self.value, places), dim=2)
        return resemblance @ values

    @torch.no_grad()
    def _taught(self, pairs: Pairs) -> list[Maps]:
        """Return what the averages say of the places of both views; on every process alike."""
        averages = {name: self.get_buffer(_averaged(name)) for name, _ in self.head.named_parameters()}
        share = 1 - rising_decay(self.decay, pairs.step, self.last_step)
        for name, value in self.head.named_parameters():
            averages[name].lerp_(value, share)
        found = []
        for maps in pairs.embeddings.taught_maps:
            places = at_least_float32(maps.flatten(1, 2))
            rows: Tensor = functional_call(self.head, averages, (pairs, places.flatten(0, 1)))
            found.append(rows.unflatten(0, places.shape[:2]))
        return found


def _agreement(guesses: Maps, taught: Maps, same: Bool[Tensor, "n p q"]) -> Float[Tensor, " n"]:
    """Return the mean cosine of each image's pairs of places that are the same; 0 where there are none."""
    cosines = functional.normalize(guesses, dim=2) @ functional.normalize(taught, dim=2).transpose(1, 2)
    return (cosines * same).sum(dim=(1, 2)) / (same.sum(dim=(1, 2)) + FEW)


def _averaged(name: str) -> str:
    return f"averaged_{name.replace('.', '_')}"
