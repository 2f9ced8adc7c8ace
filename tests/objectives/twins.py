"""Batches in which samples stand twice, and every term that knows negatives read slowly, on whole matrices.

Rows of one sample are left out of each other's negatives, and are no positives either.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.objectives.batches import DIM, draw_leaves, extras, unit
from vlp.ground.draws import uniform
from vlp.objectives.base import Term, terms
from vlp.objectives.feature_transformation import SALT_OF_PARTNERS, SALT_OF_SHARES
from vlp.objectives.hallucinator import SALT as SALT_OF_MADE
from vlp.objectives.mochi import SALTS

SIZE = 12
IDS = torch.tensor([4, 7, 1, 4, 9, 12, 7, 4, 20, 21, 22, 23])
"""One sample three times and one twice: other views and other captions of them, but for the last copy of 4."""


@dataclass
class Whole:
    """A whole batch as plain matrices; what terms may need beside embeddings is in `more`."""

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor
    ids: Tensor
    image_views: tuple[Tensor, ...] = ()
    text_views: tuple[Tensor, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.ids)

    @property
    def others(self) -> Tensor:
        """Which rows are of different samples."""
        return self.ids[:, None] != self.ids

    @property
    def seen(self) -> Tensor:
        """The same, and each row itself."""
        return self.others | torch.eye(self.size, dtype=torch.bool)

    @property
    def logits(self) -> Tensor:
        return self.scale * self.image @ self.text.T

    @property
    def sides(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Anchors and what they meet, in both directions."""
        return (self.image, self.text), (self.text, self.image)

    @property
    def leaves(self) -> list[Tensor]:
        return [self.image, self.text, self.scale, self.bias, *self.image_views, *self.text_views]

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the first four leaves, as `pairs_of` wants it."""
        return {**self.more, "ids": self.ids, "image_views": self.image_views, "text_views": self.text_views}


def draw_twins(ids: Tensor = IDS, *, views: bool = False, scale: float = 10.0) -> Whole:
    """Draw a batch; the last copy of sample 4 has the embeddings of its first."""
    size = len(ids)
    more = {key: value for key, value in extras(size).items() if key != "ids"}
    leaves = [leaf.detach().clone() for leaf in draw_leaves(size, scale=scale)]
    further = [unit(size, DIM, seed) for seed in (3, 4, 5)] if views else []
    if torch.equal(ids, IDS):
        for rows in (*leaves[:2], more["teacher"].image, more["teacher"].text, more["reference"]):
            rows[7] = rows[0]
        for name in ("caption_ids", "tokens", "token_counts"):  # which of two captions is nearest must not matter
            more[name][7] = more[name][0]
        more["image_maps"][0].data[7] = more["image_maps"][0].data[0]
    leaves, further = ([leaf.requires_grad_() for leaf in some] for some in (leaves, further))
    return Whole(*leaves, ids, tuple(further[:2]), tuple(further[2:]), more)


def lse(logits: Tensor, seen: Tensor) -> Tensor:
    """Log-sum-exp of what is seen of each row; minus infinity where nothing is."""
    nothing = logits.new_tensor(-math.inf)
    return torch.stack(
        [row[some].logsumexp(0) if some.any() else nothing for row, some in zip(logits, seen, strict=True)]
    )


def miss(wrong: Tensor, right: Tensor) -> Tensor:
    """-log of each positive's share; nothing is missed where there is nothing wrong."""
    return torch.stack(
        [r * 0 if w == -math.inf else functional.softplus(w - r) for w, r in zip(wrong, right, strict=True)]
    )


def contrast(wrong: Tensor, right: Tensor) -> Tensor:
    """Negatives against the positive, which is none of them; nothing without negatives."""
    return torch.stack([r * 0 if w == -math.inf else w - r for w, r in zip(wrong, right, strict=True)])


def both(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    return (function(logits).mean() + function(logits.T).mean()) / 2


def averages(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of each row under weights; 0 where there are none."""
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1e-300)


def clip(b: Whole, text_share=0.5, label_smoothing=0.0, mask_duplicates=False):
    total = 0.0
    for logits, share in ((b.logits, 1 - text_share), (b.logits.T, text_share)):
        captions = b.more["caption_ids"]
        own = torch.eye(b.size, dtype=torch.float64)
        asked = b.seen & ((captions[:, None] != captions) | own.bool() | (not mask_duplicates))
        target = label_smoothing * asked.double() / asked.sum(1, keepdim=True) + (1 - label_smoothing) * own
        total = total + share * (lse(logits, asked) - (target * logits).sum(1)).mean()
    return total


def siglip(b: Whole):
    costs = functional.softplus(b.logits + b.bias, threshold=40)
    return (functional.softplus(-(b.logits.diagonal() + b.bias)) + (costs * b.others).sum(1)).mean()


def _decoupled(b: Whole, intra: bool, weights: Tensor | float):
    wrong = [lse(b.logits, b.others), lse(b.logits.T, b.others)]
    if intra:
        within = [lse(b.scale * own @ own.T, b.others) for own in (b.image, b.text)]
        wrong = [torch.stack(some).logsumexp(0) for some in zip(wrong, within, strict=True)]
    return contrast((wrong[0] + wrong[1]) / 2, weights * b.logits.diagonal()).mean()


def dcl(b: Whole, intra=False):
    return _decoupled(b, intra, 1.0)


def dclw(b: Whole, sigma=0.5, intra=False):
    cosines = (b.image * b.text).sum(1).detach()
    return _decoupled(b, intra, 2 - b.size * (cosines / sigma).softmax(0))


def _views(b: Whole) -> list[Tensor]:
    return [b.image, *b.image_views, b.text, *b.text_views]


def _agreement(b: Whole) -> Tensor:
    views = _views(b)
    some = [b.scale * (one * other).sum(1) for k, one in enumerate(views) for other in views[k + 1 :]]
    return torch.stack(some).logsumexp(0)


def dhel(b: Whole):
    return contrast(sum(lse(b.scale * view @ view.T, b.others) for view in _views(b)), _agreement(b)).mean()


def mv_infonce(b: Whole, intra_view=False):
    views = _views(b)
    blocks = [
        lse(b.scale * one @ other.T, b.others)
        for k, one in enumerate(views)
        for m, other in enumerate(views)
        if k != m or intra_view
    ]
    return miss(torch.stack(blocks).logsumexp(0), _agreement(b) + math.log(2)).mean()


def _hardest(cosines: Tensor, seen: Tensor, count: Callable[[int], int]) -> list[Tensor]:
    """Cosines of each anchor's hardest negatives, falling."""
    return [
        row[some].sort(descending=True).values[: count(int(some.sum()))]
        for row, some in zip(cosines, seen, strict=True)
    ]


def hard(b: Whole, fraction=0.05, mask_duplicates=False):
    captions = b.more["caption_ids"]
    seen = b.others & ((captions[:, None] != captions) | (not mask_duplicates))
    shares = [max(1, round(fraction * int(n))) for n in b.others.sum(1)]

    def misses(cosines):
        chosen = [_hardest(cosines[i : i + 1], seen[i : i + 1], lambda _, i=i: shares[i])[0] for i in range(b.size)]
        none = cosines.new_tensor(-math.inf)
        wrong = torch.stack([(b.scale * some).logsumexp(0) if len(some) else none for some in chosen])
        return miss(wrong, b.logits.diagonal())

    return both(misses, b.image @ b.text.T)


def simple(b: Whole, strength=1.0, fraction=None):
    cosines = b.image @ b.text.T

    def push(some):
        chosen = _hardest(some, b.others, lambda n: n if fraction is None else max(1, round(fraction * n)))
        return torch.stack([c.mean() if len(c) else c.sum() for c in chosen])

    return strength * both(push, cosines) - cosines.diagonal().mean()


def hn_nce(b: Whole, beta=0.25, eta=1.0, detach_weights=True, prior=0.0):
    count = b.others.sum(1)

    def misses(logits):
        found = []
        for i in range(b.size):
            some, right = logits[i][b.others[i]], logits[i, i]
            if not len(some):
                found.append(right * 0 + (math.log(eta) if eta else 0.0))
                continue
            weights = count[i] * (beta * some).softmax(0)
            held = (weights * some.exp()).sum().log()
            if detach_weights:
                plain = ((1 + beta) * some).logsumexp(0) / (1 + beta)
                held = held.detach() + plain - plain.detach()
            if prior:
                left = (held.exp() - prior * count[i] * right.exp()) / (1 - prior)
                held = torch.maximum(left, count[i] * (-b.scale).exp()).log()
            found.append((eta * right.exp() + held.exp()).log() - right)
        return torch.stack(found)

    return both(misses, b.logits)


def _log_mean_kernel(b: Whole, one: Tensor, other: Tensor, sharpness: float) -> Tensor:
    kernels = (-sharpness * (one[:, None] - other).square().sum(2)).exp()[b.others]
    return kernels.mean().log() if len(kernels) else one.sum() * 0


def uniformity(b: Whole, modality="both", sharpness=2.0):
    chosen = {"image": [b.image], "text": [b.text], "both": [b.image, b.text]}[modality]
    return torch.stack([_log_mean_kernel(b, some, some, sharpness) for some in chosen]).mean()


def cross_uniformity(b: Whole, sharpness=2.0):
    return _log_mean_kernel(b, b.image, b.text, sharpness)


def mmd(b: Whole, sharpness=2.0):
    sides = ((b.image, b.image), (b.text, b.text), (b.image, b.text))
    images, texts, across = (_log_mean_kernel(b, *side, sharpness).exp() for side in sides)
    return images + texts - 2 * across


def sepclr(b: Whole, private_dim=None, entropy_weight=10.0, sharpness=1.0):
    private = private_dim or max(1, DIM // 4)
    parts = [
        [functional.normalize(part, dim=1) for part in rows.split([DIM - private, private], dim=1)]
        for rows in (b.image, b.text)
    ]
    entropy = 0.0
    for shared, own in parts:
        distances = sum((part[:, None] - part).square().sum(2) for part in (shared, own))
        for i in range(b.size):
            entropy = entropy + (-sharpness * distances[i][b.seen[i]]).exp().mean().log() / (2 * b.size)
    return (parts[0][0] - parts[1][0]).square().sum(1).mean() + entropy_weight * entropy


def cacr(b: Whole, positive_sharpness=1.0, negative_sharpness=2.0, detach_weights=True, prior=0.0):
    total = 0.0
    hold = Tensor.detach if detach_weights else Tensor.clone
    images, texts = (b.image, *b.image_views), (b.text, *b.text_views)
    for own, other in ((images, texts), (texts, images)):
        near = torch.stack([(own[0] - view).square().sum(1) for view in other], dim=1)
        far = (own[0][:, None] - other[0]).square().sum(2)
        attraction = (hold((positive_sharpness * near).softmax(1)) * near).sum(1)
        for i in range(b.size):
            some = far[i][b.others[i]]
            push = -(hold((-negative_sharpness * some).softmax(0)) * some).sum() + prior * near[i].mean()
            total = total + attraction[i] + (push / (1 - prior) if len(some) else 0.0)
    return total / (2 * b.size)


def false_negatives(b: Whole, weighting="threshold", strength=None):
    number = {"threshold": 0.9, "fade": 2.0, "disagreement": 1.0}[weighting] if strength is None else strength
    alike = b.more["reference"] @ b.more["reference"].T
    weights = {
        "threshold": lambda: (alike < number).double(),
        "fade": lambda: 1 - alike.clamp(0, 1) ** number,
        "disagreement": lambda: (number * (1 - alike)).exp(),
    }[weighting]()
    captions = b.more["caption_ids"]
    seen = b.others & (captions[:, None] != captions) & (weights > 0)
    added = weights.where(seen, 1).log()
    return both(lambda logits: miss(lse(logits + added, seen), b.logits.diagonal()), b.logits)


def teacher_contrast(b: Whole, replayed=False):
    anchors = b.more["replayed"].double() if replayed else torch.ones(b.size).double()
    teacher, total = b.more["teacher"], 0.0
    for logits, own, partner in ((b.logits, b.image, teacher.text), (b.logits.T, b.text, teacher.image)):
        losses = miss(lse(logits, b.others), b.scale * (own * partner).sum(1))
        total = total + (losses * anchors).sum() / anchors.sum() / 2
    return total


def soft_targets(b: Whole, teacher_scale=None):
    teacher = b.more["teacher"]
    taught = (b.scale.detach() if teacher_scale is None else teacher_scale) * teacher.image @ teacher.text.T
    total = 0.0
    for logits, target in ((b.logits, taught), (b.logits.T, taught.T)):
        for i in range(b.size):
            shares = target[i][b.seen[i]].log_softmax(0)
            total = total + (shares.exp() * (shares - logits[i][b.seen[i]].log_softmax(0))).sum()
    return total / (2 * b.size)


def cwcl(b: Whole, kernel="linear", kernel_temperature=0.07, k=8, mix=1.0, anchor="image", reduction="sum"):
    reference = b.more["reference"]
    alike = reference @ reference.T
    weights = ((alike - 1) / kernel_temperature).exp() if kernel == "exp" else (1 + alike) / 2
    weights = weights.where(b.seen, 0)
    if kernel == "topk":
        weights.fill_diagonal_(0)
        for i in range(b.size):
            chosen = alike[i].masked_fill(~b.others[i], -math.inf).topk(min(k, b.size) - 1).indices
            weights[i] = weights[i] * torch.zeros(b.size).index_fill(0, chosen, 1)
        weights.fill_diagonal_(1)
    logits = b.logits if anchor == "image" else b.logits.T
    soft = mix * averages(logits, weights) + (1 - mix) * logits.diagonal()
    total = (lse(logits, b.seen) - soft).mean() + (lse(logits.T, b.seen) - logits.diagonal()).mean()
    return total * (0.5 if reduction == "mean" else 1)


def swalip(b: Whole, sharpness=0.05, num_iterations=3):
    images, texts, total = (b.image, *b.image_views), (b.text, *b.text_views), 0.0
    for p, image in enumerate(images):
        for q, text in enumerate(texts):
            other = (images[(p + 1) % len(images)] @ texts[(q + 1) % len(texts)].T).detach()
            for logits, scores in ((b.scale * image @ text.T, other), (b.scale * text @ image.T, other.T)):
                shares = (scores / sharpness).masked_fill(~b.seen, -math.inf)
                for _ in range(num_iterations):
                    shares = (shares - shares.logsumexp(0)).log_softmax(1)
                total = total + (lse(logits, b.seen) - (shares.exp() * logits).sum(1)).mean() / 2
    return total / (len(images) * len(texts))


def groco(b: Whole, num_negatives=10, steepness=1.0):
    images, texts, total = (b.image, *b.image_views), (b.text, *b.text_views), 0.0
    for own, other in ((images, texts), (texts, images)):
        for i in range(b.size):
            negatives = (own[0][i] @ other[0].detach().T)[b.others[i]].sort().values[-num_negatives:]
            positives = torch.stack([own[0][i] @ view[i].detach() for view in other]).sort().values
            group = _sorted_into(torch.cat([negatives, positives]), len(negatives), steepness)
            target = torch.ones_like(group)
            target[: len(negatives)] = 0
            total = total + functional.binary_cross_entropy(group.clamp(0, 1), target)
    return total / (2 * b.size)


def _sorted_into(values: Tensor, first: int, steepness: float) -> Tensor:
    """Probability of each value to leave the sorting network at place `first` or above."""
    ways = torch.eye(len(values), dtype=values.dtype)
    for layer in range(len(values)):
        step = torch.eye(len(values), dtype=values.dtype)
        for place in range(layer % 2, len(values) - 1, 2):
            keep = 0.5 + torch.arctan(steepness * (values[place + 1] - values[place])) / math.pi
            square = torch.stack([torch.stack([keep, 1 - keep]), torch.stack([1 - keep, keep])])
            step = step.slice_scatter(
                step[place : place + 2].slice_scatter(square, 1, place, place + 2), 0, place, place + 2
            )
        values, ways = values @ step, ways @ step
    return ways[:, first:].sum(1)


def mann_whitney(b: Whole, temperature=0.01, resolution=16, mined=False):
    """With the grid that the term promises: costs are linear between its points."""
    grid = torch.linspace(-1, 1, max(1, round(2 * resolution / temperature)) + 1, dtype=torch.float64)
    cosines = b.image @ b.text.T
    wrong = cosines[b.others]
    if mined:
        wrong = torch.cat([wrong, torch.einsum("nd,nmd->nm", b.image, b.more["negatives"]).flatten()])
    if not len(wrong):
        return cosines.sum() * 0
    costs = functional.softplus((grid[:, None] - cosines.diagonal()) / temperature, threshold=1e9).mean(1)
    step = grid[1] - grid[0]
    below = ((wrong.detach() + 1) / step).long().clamp(max=len(grid) - 2)
    share = (wrong - grid[below]) / step
    return ((1 - share) * costs[below] + share * costs[below + 1]).mean()


def ranker_distillation(b: Whole, num_negatives=16, teacher_scale=None, adversarial=0.0):
    teacher, total = b.more["teacher"], 0.0
    scale = b.scale.detach() if teacher_scale is None else teacher_scale
    taught = scale * teacher.image @ teacher.text.T
    for logits, target in ((b.logits, taught), (b.logits.T, taught.T)):
        for i in range(b.size):
            order = logits[i].masked_fill(~b.others[i], -math.inf).argsort(descending=True)
            chosen = torch.cat([torch.tensor([i]), order[: min(num_negatives, int(b.others[i].sum()))]])
            shares, ranking = logits[i][chosen].log_softmax(0), target[i][chosen]
            total = total - (ranking.softmax(0) * shares).sum()
            total = total + adversarial * (functional.logsigmoid(ranking[0] - ranking[1:]) * shares[1:]).sum()
    return total / (2 * b.size)


def clip_negatives(b: Whole):
    made = b.more["negatives"].flatten(0, 1)
    wrong = torch.stack([lse(b.logits, b.others), (b.scale * b.image @ made.T).logsumexp(1)]).logsumexp(0)
    right = b.logits.diagonal()
    return (miss(wrong, right) + miss(lse(b.logits.T, b.others), right)).mean() / 2


def cluster_proxies(b: Whole, centres=256, decay=0.9, second_order=False):
    """At the first batch, before there is a past."""
    return clip(b)


def mochi(b: Whole, hardest=64, mixes=64, anchor_mixes=0, first_step=0, queue=0):
    hardest, total = max(1, min(hardest, b.size // 4)), 0.0
    for (own, other), axis in zip(b.sides, ("row", "column"), strict=True):
        for i in range(b.size):
            negatives = [j for j in range(b.size) if b.others[i, j]]
            negatives.sort(key=lambda j: -(own[i] @ other[j]).item())
            logits = [b.scale * own[i] @ other[j] for j in negatives]
            picks = negatives[:hardest]
            draws = uniform(b.ids[i : i + 1], 0, SALTS[axis], 3 * mixes + 2 * anchor_mixes)[0].tolist()
            shares, ranks = draws[: mixes + anchor_mixes], draws[mixes + anchor_mixes :]
            chosen = [other[picks[int(rank * len(picks))]] for rank in ranks] if picks else []
            made = [shares[m] * chosen[m] + (1 - shares[m]) * chosen[mixes + m] for m in range(mixes if picks else 0)]
            made += [
                shares[mixes + m] / 2 * own[i] + (1 - shares[mixes + m] / 2) * chosen[2 * mixes + m]
                for m in range(anchor_mixes if picks else 0)
            ]
            logits += [b.scale * own[i] @ functional.normalize(mix, dim=0).detach() for mix in made]
            right = b.scale * own[i] @ other[i]
            total = total + (functional.softplus(torch.stack(logits).logsumexp(0) - right) if logits else right * 0)
    return total / (2 * b.size)


def hallucinator(b: Whole, term: Term, hallucination_weight=1.0, hidden=None, max_distance=1.0):
    draws = uniform(b.ids, 0, SALT_OF_MADE, 1)
    made = b.text + term.perceptron(b.text + max_distance * draws * (b.text - b.image.detach()))
    right = b.scale * (b.image * functional.normalize(made, dim=1)).sum(1)
    return clip(b) + hallucination_weight * miss(lse(b.logits, b.others), right).mean()


def amcl(b: Whole, term: Term, beta=0.01, **_settings):
    total = 0.0
    for head in range(term.num_heads):
        images, texts = (
            functional.normalize(rows @ term.heads[name][head].T, dim=1)
            for name, rows in (("image", b.image), ("text", b.text))
        )
        temperatures = term.low + (term.high - term.low) * torch.sigmoid(-(term.phi(images) @ term.phi(texts).T))
        logits, own = images @ texts.T / temperatures, temperatures.diagonal()
        total = total + both(lambda some: miss(lse(some, b.others), some.diagonal()), logits)
        total = total + beta * (images.shape[1] / 2 * own.log() + 1 / own).mean()
    return total


def feature_transformation(b: Whole, term: Term, positive=2.0, negative=1.6, each_dimension=False, queue=0):
    shares = uniform(b.ids, 0, SALT_OF_SHARES, 3)
    keys = uniform(b.ids, 0, SALT_OF_PARTNERS, 1)[:, 0].tolist()
    order, partner = sorted(range(b.size), key=lambda i: (keys[i], int(b.ids[i]), i)), list(range(b.size))
    for k in range(0, b.size - 1, 2) if negative else ():
        partner[order[k]], partner[order[k + 1]] = order[k + 1], order[k]
    factor = 1 + term.extrapolate(shares[:, :1]) if positive else torch.ones(b.size, 1)
    pushed = [factor * one + (1 - factor) * other for one, other in b.sides]
    right = b.scale * functional.cosine_similarity(*pushed, dim=1)
    seen = b.others & b.others[:, partner]
    total = 0.0
    for column, (own, other) in enumerate(b.sides, 1):
        share = uniform(b.ids, 0, SALT_OF_SHARES + column, DIM) if each_dimension else shares[:, column, None]
        blends = other
        if negative:
            part = term.interpolate(share)
            blends = functional.normalize(part * other + (1 - part) * other[partner], dim=1)
        total = total + miss(lse(b.scale * own @ blends.T, seen), right).mean() / 2
    return total


def sogclr(b: Whole, budget=None, epsilon=0.0, **_settings):
    """At the first batch the average is that of the batch."""
    total = b.scale * 0
    for logits in (b.logits, b.logits.T):
        wrong = lse(logits, b.others)
        averages_now = torch.zeros(b.size, dtype=torch.float64)
        for i in range(b.size):
            if wrong[i] > -math.inf:
                rows = [j for j in range(b.size) if b.ids[j] == b.ids[i]]
                counts = b.others[i].sum().log()
                averages_now[i] = torch.stack([(wrong[j] - logits[j, j] - counts).exp() for j in rows]).mean().log()
                here = (wrong[i] - logits[i, i] - counts).detach()
                weight = here.exp() / (averages_now[i].detach().exp() + epsilon) / b.scale.detach()
                total = total + weight * (wrong[i] - logits[i, i])
                total = total + (0.0 if budget is None else (averages_now[i].detach() + budget) / b.scale)
    return total / (2 * b.size)


def isogclr(b: Whole, temperature=0.01, epsilon=0.0, **_settings):
    """At the first batch, like `sogclr` at the temperature where all start."""
    frozen = Whole(b.image, b.text, torch.tensor(1 / temperature, dtype=torch.float64), b.bias, b.ids)
    return sogclr(frozen, epsilon=epsilon)


READINGS: dict[str, Callable[..., Tensor]] = {
    reading.__name__: reading
    for reading in (
        *(clip, siglip, dcl, dclw, dhel, mv_infonce, hard, simple, hn_nce, uniformity, cross_uniformity, mmd, sepclr),
        *(cacr, false_negatives, teacher_contrast, soft_targets, cwcl, swalip, groco, mann_whitney, mochi),
        *(ranker_distillation, clip_negatives, cluster_proxies, sogclr, isogclr),
        *(hallucinator, amcl, feature_transformation),
    )
}
WITH_TERM = ("hallucinator", "amcl", "feature_transformation", "core_tuning", "adversarial_ranker")
"""Terms whose readings need the term's own parameters or tables."""

NO_NEGATIVES = {
    "alignment": "each pair alone",
    "barlip": "correlations of features over the batch",
    "byolip": "each pair and its teacher",
    "captioning": "each image and its tokens",
    "feature_distillation": "each sample and its teacher",
    "image_grounded": "each image and the wrong captions made for it",
    "siamlip": "each pair alone",
    "swav": "each sample and the prototypes",
    "text_grounded": "each caption and the wrong captions made of it",
}
"""Terms in which no sample is another's negative, and what they look at."""

for name in terms:  # a term whose test file says it
    module = importlib.import_module(f"tests.objectives.test_{name}")
    if hasattr(module, "READING"):
        READINGS[name] = module.READING
    if hasattr(module, "NO_NEGATIVES"):
        NO_NEGATIVES[name] = module.NO_NEGATIVES
