"""Captions whose token embeddings an adversary has moved, as further training captions."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from vlp.attacks.ball import into_round_ball
from vlp.attacks.pgd import gradient_of
from vlp.ground import dist
from vlp.ground.types import Batch, Embeddings, Reading, send
from vlp.strategies.anchors import Anchors, embed_anchors
from vlp.strategies.base import Strategy, strategies
from vlp.strategies.second_pass import SecondPass
from vlp.strategies.trained_tower import check_trains
from vlp.towers.dual import DualEncoder
from vlp.towers.moved_tokens import MovedTokens, named


class TokenAttack:
    """Moves the token embeddings of captions, from what a text tower says of them.

    Args:
        epsilon: Longest way of a token, as a share of the mean norm.
        step_size: Length of a step, as such a share.
    """

    def __init__(self, model: DualEncoder, *, epsilon: float, step_size: float, steps: int):
        self.model, self.moved = model, MovedTokens(model.core.text)
        self.epsilon, self.step_size, self.steps = epsilon, step_size, steps
        self._aim: tuple[Anchors, Float32[Tensor, ""]] | None = None

    def take_aim(self, batch: Batch) -> Int64[Tensor, "n l"]:
        """Embed the captions of all processes; return those of this one, with names for the tokens that may move."""
        tokens = named(batch.tokens[0], inner(batch))
        self.moved.place(batch.tokens[0])
        with self.moved.measuring() as norms:
            anchors = embed_anchors(self.model, replace(batch, tokens=tokens[None]))
        total, number = dist.all_reduce_sum(torch.stack(norms).sum(dim=0))
        self._aim = anchors, total / number.clamp(min=1)
        return tokens

    def __call__(self, batch: Batch) -> Float32[Tensor, "n l w"]:
        """Return where the tokens of a micro-batch go, whose second text view has names."""
        assert self._aim is not None, "take_aim() comes first"
        anchors, norm = self._aim
        right = anchors.right(batch)

        def loss(offsets: Float32[Tensor, "n l w"]) -> Float32[Tensor, " n"]:
            self.moved.place(batch.tokens[0], offsets)
            return anchors.miss(self.model.embed_tokens(batch.tokens[1], batch.lengths[1].numpy()), right)

        at_home = torch.zeros(*batch.tokens.shape[1:], self.moved.width, device=batch.tokens.device)
        offsets, step = at_home, self.step_size * norm / self.moved.width**0.5
        with self.model.at_rest():
            for _ in range(self.steps):
                uphill = offsets + step * gradient_of(loss, offsets).sign()
                offsets = into_round_ball(uphill, at_home, self.epsilon * norm)
        return offsets


@strategies.register("adversarial_texts")
class AdversarialTexts(Strategy):
    """Train on captions whose words stand a little beside themselves, where they look like other captions.

    Signed gradients of the text tower in evaluation mode move the embeddings of tokens, as Xhonneux et al. 2024,
    section 3 (arXiv:2405.15589), do it for language models. They raise the softmax contrast of the moved caption with
    the clean captions of all processes, of which its own is the right one: no image is needed. The first and the last
    token and the padding stay where they are. The objective is the sum of that of clean and of moved captions. Each
    step of the attack costs a pass of the text tower and back, the moved captions cost another. List it behind
    strategies that change captions.

    Args:
        epsilon: Longest way of a token, as a share of the mean norm of the batch's token embeddings.
        step_size: Length of a step, as such a share; null is 2 * epsilon / steps.
        steps: Signed steps of the attack.
        adversarial_weight: Weight of the objective on moved captions, beside 1 for clean ones.

    Raises:
        ValueError: A number that is not positive.
    """

    reads_images = False

    def __init__(
        self,
        *,
        epsilon: float = 0.05,
        step_size: float | None = None,
        steps: int = 1,
        adversarial_weight: float = 1.0,
    ):
        if epsilon <= 0 or steps < 1 or adversarial_weight <= 0 or (step_size is not None and step_size <= 0):
            raise ValueError(
                f"epsilon {epsilon}, steps {steps}, step_size {step_size} and adversarial_weight {adversarial_weight} "
                "must be positive"
            )
        self.epsilon, self.steps, self.adversarial_weight = epsilon, steps, adversarial_weight
        self.step_size = 2 * epsilon / steps if step_size is None else step_size
        self._attack: TokenAttack | None = None
        self._offsets = SecondPass()

    @property
    def attack(self) -> TokenAttack:
        """What moves the tokens."""
        assert self._attack is not None, "start() comes first"
        return self._attack

    def start(self, model: DualEncoder) -> None:
        check_trains(model, "text")
        self._attack = TokenAttack(model, epsilon=self.epsilon, step_size=self.step_size, steps=self.steps)

    def before_forward(self, batch: Batch) -> Batch:
        self._offsets.forget()
        tokens = self.attack.take_aim(batch)
        return replace(
            batch,
            tokens=torch.cat([batch.tokens[:1], tokens[None], batch.tokens[1:]]),
            lengths=torch.cat([batch.lengths[:1], batch.lengths[:1], batch.lengths[1:]]),
        )

    def before_towers(self, images: Tensor, batch: Batch) -> Tensor:
        offsets = self._offsets(batch, lambda: self.attack(batch))
        self.attack.moved.place(batch.tokens[0], offsets)
        return images

    def readings(self, embeddings: Embeddings) -> tuple[Reading, ...]:
        others = range(2, 1 + len(embeddings.text_views))
        clean, changed = embeddings.with_texts((0, *others, 1)), embeddings.with_texts((1, *others))
        return Reading(clean), Reading(changed, self.adversarial_weight)


def inner(batch: Batch) -> Bool[Tensor, "n l"]:
    """Say which tokens of the first text view have another before and another behind them."""
    lengths = send(batch.lengths[0], batch.tokens.device)
    places: Int64[Tensor, " l"] = torch.arange(batch.tokens.shape[-1], device=batch.tokens.device)
    return (places > 0) & (places < lengths[:, None] - 1)
