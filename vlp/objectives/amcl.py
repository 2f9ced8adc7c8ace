"""Softmax contrast in several learned projections, at a temperature that every combination chooses for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vlp.objectives.base import Term, terms
from vlp.objectives.head import MatrixHead, TrainedHead
from vlp.objectives.shared.negative_sums import NOTHING
from vlp.pairs import Pairs, Request, Stats, at_least_float32

PIECE = 256  # rows whose logits exist at once: 32 MB at 32768 columns


@terms.register("amcl")
class MultiHeadTerm(Term):
    """Contrast pairs in several projections, each combination at a temperature that a small network gives it.

    Adapted from Wang et al. 2023 (arXiv:2310.05615): softmax instead of the paper's likelihood, whose reward for hot
    negatives has no bound, and the regulariser on positives only. The model's scale takes no part. Only the projections
    are contrasted, and evaluation sees the embeddings: keep clip beside it, or evaluate `RUN@amcl` (all projections
    side by side) and `RUN@amcl.0`, which can be exported. There is no evidence on images and texts.

    Formula: sum_c mean_i lse_j cos_ij / t_ij - cos_ii / t_ii in both directions, plus beta [width / 2 log t_ii +
    1 / t_ii]; cos of projections A_c x_i and B_c y_j, t_ij = min + (max - min) sigmoid(-phi(A_c x_i).phi(B_c y_j))

    Args:
        num_heads: Projections of each modality.
        width: Of a projection; None takes that of the embeddings.
        hidden: Width of the perceptron phi, shared by all projections, and of its output.
        beta: Of the regulariser.
        min_temperature: Equal to `max_temperature`, it makes all temperatures the same.
        max_temperature: Of any combination.

    Raises:
        ValueError: Sizes below 1, a negative `beta`, or temperatures that are not in order.
    """

    min_pairs = 2
    requests = {"image_text": ()}

    def __init__(
        self,
        *,
        num_heads: int = 3,
        width: int | None = None,
        hidden: int = 64,
        beta: float = 0.01,
        min_temperature: float = 0.01,
        max_temperature: float = 2.0,
    ):
        super().__init__()
        if min(num_heads, hidden, 1 if width is None else width) < 1 or beta < 0:
            raise ValueError("num_heads, width and hidden must be at least 1, beta must not be negative")
        if not 0 < min_temperature <= max_temperature:
            raise ValueError(f"min_temperature {min_temperature} must lie in (0, max_temperature {max_temperature}]")
        self.num_heads, self.width, self.hidden, self.beta = num_heads, width, hidden, beta
        self.low, self.high = min_temperature, max_temperature

    def create(self, embed_dim: int, /) -> None:
        self.width = self.width or embed_dim
        # both modalities start alike, and with the cosines of the embeddings where a projection is as wide
        start = [nn.init.orthogonal_(torch.empty(self.width, embed_dim)) for _ in range(self.num_heads)]
        self.heads = nn.ParameterDict({name: torch.stack(start) for name in ("image", "text")})
        self.phi = nn.Sequential(nn.Linear(self.width, self.hidden), nn.GELU(), nn.Linear(self.hidden, self.hidden))

    def offered_heads(self) -> Mapping[str, TrainedHead]:
        """Return all projections side by side, named by an empty word, and each alone, by its number."""
        heads = {name: value.detach() for name, value in self.heads.items()}
        single = [{name: value[k, None] for name, value in heads.items()} for k in range(self.num_heads)]
        return {"": MatrixHead(heads), **{str(k): MatrixHead(one) for k, one in enumerate(single)}}

    def plan(self, _pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        """Ask for nothing: no request has temperatures of combinations."""
        return {}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        images, texts = self._project(pairs, "image"), self._project(pairs, "text")
        all_images, all_texts = pairs.gather_with_gradient(images), pairs.gather_with_gradient(texts)
        own = pairs.local_part(torch.arange(pairs.num_pairs, device=images.device))
        losses = []
        for head in range(self.num_heads):
            image, text = images[:, head], texts[:, head]
            (projected_image, phi_image), (projected_text, phi_text) = self._parts(image), self._parts(text)
            cosines = (projected_image * projected_text).sum(dim=1)
            temperatures = self._temperatures((phi_image * phi_text).sum(dim=1))
            regulariser = projected_image.shape[1] / 2 * temperatures.log() + 1 / temperatures
            wrong = [
                self._negatives(pairs, image, all_texts[:, head], own),
                self._negatives(pairs, text, all_images[:, head], own),
            ]
            misses = functional.softplus(torch.stack(wrong) - cosines / temperatures).mean(dim=0)
            losses.append(misses + self.beta * regulariser)
        return pairs.mean(torch.stack(losses).sum(dim=0))

    def _project(self, pairs: Pairs, name: str) -> Float[Tensor, "n c f"]:
        """Return each sample's unit projections, with phi of each behind it."""
        heads = self.heads[name]
        rows = pairs.view(name).to(heads.dtype)
        projected = functional.normalize(torch.einsum("nd,cwd->ncw", rows, heads), dim=2)
        with pairs.own_network():
            phi = self.phi(projected)
        return torch.cat([projected, at_least_float32(phi)], dim=2)

    def _parts(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        return fields[..., : self.width], fields[..., self.width :]

    def _temperatures(self, closeness: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(-closeness)

    def _negatives(self, pairs: Pairs, rows: Tensor, columns: Tensor, own: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return log-sum-exps over everyone's columns but the own, in pieces that are computed again going back."""
        ids = pairs.everyones_ids if pairs.has_twins else None

        def piece(some: Tensor, positions: Tensor, everyone: Tensor) -> Tensor:
            cosines, closeness = (a @ b.T for a, b in zip(self._parts(some), self._parts(everyone), strict=True))
            logits = cosines / self._temperatures(closeness)
            if ids is not None:
                logits = logits.masked_fill(ids[positions][:, None] == ids, NOTHING)
            return logits.scatter(1, positions[:, None], -torch.inf).logsumexp(dim=1)

        parts = zip(rows.split(PIECE), own.split(PIECE), strict=True)
        pieces = [checkpoint(piece, *part, columns, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(pieces)
