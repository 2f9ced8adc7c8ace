"""Classes told apart by their names, and by contrast among images with hard pairs that are mixed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.heads import mapped
from vlp.pairs import Pairs, Stats

SALT = 0xC07E
LEAST_OF_NEGATIVE = 0.8  # of their code: a negative's share in the mix that should lie near it
MOST_PAIRS = 8192  # whole rows of the batch are held, a few at a time


@terms.register("core_tuning")
class CoreTuningTerm(Term):
    """Tell the class of each image and of mixes of images, and contrast images by class where it is hard.

    Core-tuning (Zhang et al. 2021, arXiv:2102.06605, section 4) for images whose captions are names of classes: equal
    captions are one class, and the texts of a batch are the classifier, which the paper learns anew. For each image two
    mixes are made: a hard positive, of the image of its class that is least like it and the image of another that is
    most like it, and a semi-hard negative, of itself by at most a fifth and any image of another class. Both are
    classified too, by shares, which smooths the classifier; an image is contrasted with its own two mixes (their code
    lets the mixes of all be negatives of all, and takes a masked entry for the hardest positive). For fine-tuning: it
    holds whole rows of a batch of at most 8,192.

    Formula: mean_i mean_m -(share_m log c_m(class of i) + (1 - share_m) log c_m(other class)) + contrast_weight mean_i
    mean_{j in P_i} -(1 - p_ij) log p_ij; m: i and its two mixes, c = softmax of z over the classes of the batch, p_i =
    softmax_j (h_i.h_j / temperature) over other images and the mixes of i, h = norm(head(x)), P_i = images of the class
    of i and its hard positive

    Args:
        contrast_weight: Weight of the contrast among images (the eta of the paper; 0.1 to 10 there).
        temperature: Of the contrast.
        width: Of the head's output; its hidden layer is as wide as the embeddings.

    Raises:
        ValueError: A `temperature` or `width` that is not positive, or a negative weight.
    """

    needs = frozenset({"caption_ids"})

    def __init__(self, *, contrast_weight: float = 10.0, temperature: float = 0.07, width: int = 256):
        super().__init__()
        if min(temperature, width) <= 0 or contrast_weight < 0:
            raise ValueError("temperature and width must be positive, contrast_weight must not be negative")
        self.contrast_weight = contrast_weight
        self.temperature = temperature
        self.width = width

    def create(self, embed_dim: int, /) -> None:
        self.hidden, self.last = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, self.width)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        if pairs.num_pairs > MOST_PAIRS:
            raise ValueError(
                f"core_tuning holds whole rows of a batch, and this one has {pairs.num_pairs} pairs: set "
                f"train.batch_size to {MOST_PAIRS} or less"
            )
        classes = _classes(pairs)
        mixes = _mix(pairs, classes)
        loss = pairs.mean(self._classification(pairs, classes, mixes))
        return loss + self.contrast_weight * pairs.mean(self._contrast(pairs, classes, mixes))

    def _classification(self, pairs: Pairs, classes: Classes, mixes: Mixes) -> Float[Tensor, " n"]:
        own = pairs.caption_ids
        texts = pairs.gather_with_gradient(pairs.text)
        seen = classes.others | classes.itself
        missed = -_log_share(pairs, classes, seen, pairs.image, texts, own)
        for mix in (mixes.positive, mixes.negative):
            of_own, of_other = (_log_share(pairs, classes, seen, mix.rows, texts, each) for each in (own, mix.labels))
            missed = missed - mix.own_share * of_own - (1 - mix.own_share) * of_other
        return missed / 3

    def _contrast(self, pairs: Pairs, classes: Classes, mixes: Mixes) -> Float[Tensor, " n"]:
        anchors, positive, negative = (
            self._head(pairs, rows) for rows in (pairs.image, mixes.positive.rows, mixes.negative.rows)
        )
        others = (anchors @ pairs.gather_with_gradient(anchors).T).masked_fill(~classes.others, -torch.inf)
        to_negative = (anchors * negative).sum(dim=1).masked_fill(~mixes.has_negative, -torch.inf)
        to_mixes = torch.stack([(anchors * positive).sum(dim=1), to_negative], dim=1)
        log_shares = (torch.cat([to_mixes, others], dim=1) / self.temperature).log_softmax(dim=1)
        both = torch.ones_like(mixes.has_negative), torch.zeros_like(mixes.has_negative)
        is_positive = torch.cat([torch.stack(both, dim=1), classes.positives], dim=1)
        told = log_shares.masked_fill(~is_positive, 0)
        return -((1 - told.exp()) * told).sum(dim=1) / is_positive.sum(dim=1)

    def _head(self, pairs: Pairs, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n h"]:
        return functional.normalize(mapped(pairs, self.last, mapped(pairs, self.hidden, rows).relu()), dim=1)


class Classes(NamedTuple):
    """Which samples of the whole batch are what to each of this process's.

    Args:
        labels: Of the whole batch. `counts`: How many samples have each of these.
        itself: The sample; others are all of other sample ids, and of them positives have its class.
    """

    labels: Int64[Tensor, " b"]
    counts: Int64[Tensor, " b"]
    itself: Bool[Tensor, "n b"]
    others: Bool[Tensor, "n b"]
    positives: Bool[Tensor, "n b"]
    negatives: Bool[Tensor, "n b"]


class Mix(NamedTuple):
    """A mix of two images for each sample, the class of the one that is not its own, and the share of its own."""

    rows: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    own_share: Float[Tensor, " n"]


class Mixes(NamedTuple):
    """Both mixes; without an image of another class, the second is the sample itself."""

    positive: Mix
    negative: Mix
    has_negative: Bool[Tensor, " n"]


def _classes(pairs: Pairs) -> Classes:
    labels = pairs.gather(pairs.caption_ids)
    ordered = labels.sort().values
    first, last = (torch.searchsorted(ordered, labels, right=right) for right in (False, True))
    places = torch.arange(len(labels), device=labels.device)
    others = pairs.everyones_ids != pairs.ids[:, None]
    alike = labels == pairs.caption_ids[:, None]
    itself = places == pairs.local_part(places)[:, None]
    return Classes(labels, last - first, itself, others, others & alike, others & ~alike)


def _mix(pairs: Pairs, classes: Classes) -> Mixes:
    everyone = pairs.gather_with_gradient(pairs.image)
    draws = pairs.draws(4, SALT)
    hard_positive, hard_negative, any_negative = _choose(pairs, classes, draws[:, 2:])
    has_negative = classes.negatives.any(dim=1)
    positive_share = draws[:, 0].masked_fill(~has_negative, 1)  # Beta(1, 1)
    negative_share = (1 - draws[:, 1].clamp(min=LEAST_OF_NEGATIVE)).masked_fill(~has_negative, 1)
    labels = [classes.labels[chosen].where(has_negative, pairs.caption_ids) for chosen in (hard_negative, any_negative)]
    return Mixes(
        Mix(_between(everyone[hard_positive], everyone[hard_negative], positive_share), labels[0], positive_share),
        Mix(_between(pairs.image, everyone[any_negative], negative_share), labels[1], negative_share),
        has_negative,
    )


@torch.no_grad()
def _choose(pairs: Pairs, classes: Classes, draws: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return places in the batch: of the hardest positive, or the sample, of the hardest negative, and of any one.

    Samples lie on a circle, at random; any negative is the next one behind a random point, whatever their order.
    """
    cosines = pairs.image @ pairs.gather(pairs.image).T
    candidates = classes.positives | (classes.itself & ~classes.positives.any(dim=1, keepdim=True))
    hard_positive = cosines.masked_fill(~candidates, torch.inf).argmin(dim=1)
    hard_negative = cosines.masked_fill(~classes.negatives, -torch.inf).argmax(dim=1)
    point, place = draws[:, :1], pairs.gather(draws[:, 1])
    any_negative = ((place - point) % 1).masked_fill(~classes.negatives, torch.inf).argmin(dim=1)
    return hard_positive, hard_negative, any_negative


def _between(first: Tensor, second: Tensor, share: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
    return functional.normalize(share[:, None] * first + (1 - share[:, None]) * second, dim=1)


def _log_share(
    pairs: Pairs,
    classes: Classes,
    seen: Bool[Tensor, "n b"],
    rows: Float[Tensor, "n d"],
    texts: Float[Tensor, "b d"],
    labels: Int64[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Return the logarithm of the probability of a class for each row; captions of one class share its weight."""
    logits = (pairs.scale * rows @ texts.T - classes.counts.to(rows.dtype).log()).masked_fill(~seen, -torch.inf)
    of_class = logits.masked_fill(classes.labels != labels[:, None], -torch.inf)
    return of_class.logsumexp(dim=1) - logits.logsumexp(dim=1)
