"""One word for all captions, found by a network that is trained for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from vlp.ground import dist
from vlp.ground.offers import offers
from vlp.ground.ranges import Count, Positive
from vlp.ground.types import RecipeError, WordEncoder
from vlp.robust.attacks.base import Attack, attacks
from vlp.robust.caption_words import common_words
from vlp.robust.findings import Outcome
from vlp.robust.learning_pairs import LearningPairs, read_pairs
from vlp.robust.malicious_contrast import malicious_contrast
from vlp.robust.needed_words import needed_places, write_word_into
from vlp.robust.perturbation_generator import PerturbationGenerator
from vlp.robust.stage import Stage

BETAS = (0.5, 0.999)


@attacks.register("cpgc_word")
class CpgcWord(Attack):
    """Put one and the same word in the place of the one that a caption needs most, found by a generator: C-PGC.

    Fang et al. 2024 (arXiv:2406.05491): a generator that sees images makes the embedding of a word, as long as words of
    the vocabulary are, in the place of the word that each caption needs most. The word is the one among the commonest
    of the captions whose own embedding is most like it.

    Args:
        card: Name of a card under `data/`, or a YAML file: what is learned from.
        pairs: How many pairs of the data set are used, at most.
        epochs: How often each is seen.
        batch_size: Pairs per step.
        learning_rate: Of Adam.
        candidates: Words that the embedding may stand for.
        width: Channels of the generator's widest map.
        seed: Of weights, noise and order.
    """

    side = "texts"
    radii = (1.0,)
    unit = " word"

    def __init__(
        self,
        *,
        card: str,
        pairs: Count = 512,
        epochs: Count = 40,
        batch_size: Count = 20,
        learning_rate: Positive = 2e-4,
        candidates: Count = 1000,
        width: Count = 256,
        seed: int = 0,
    ):
        self.card, self.pairs, self.epochs, self.batch_size = card, pairs, epochs, batch_size
        self.learning_rate, self.candidates, self.width, self.seed = learning_rate, candidates, width, seed
        self.passes = 8
        self._word: str | None = None

    def change(self, stage: Stage, radius: float) -> Outcome:
        encoder = stage.encoder
        if not offers(encoder, WordEncoder):
            raise RecipeError(f"cpgc_word: the words of a {type(encoder).__name__} cannot be moved; use universal_word")
        if self._word is None:
            pairs = read_pairs(stage, self.card, self.pairs)
            made = self.learn(stage, encoder, pairs)
            self._word = dist.broadcast_object(
                nearest_word(encoder, made, common_words(pairs.captions, self.candidates))
            )
        return write_word_into(stage, self._word)

    def learn(self, stage: Stage, encoder: WordEncoder, pairs: LearningPairs) -> Float32[Tensor, " w"]:
        """Return the embedding that the generator makes in the end."""
        table, size = encoder.words, min(self.batch_size, len(pairs))
        lengths = table.norm(dim=1)
        shortest, longest = float(lengths[lengths > 0].min()), float(lengths.max())
        needed = needed_places(stage.shared.encoder, pairs.captions, pairs.images)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            made = PerturbationGenerator(
                condition_dim=pairs.images.shape[1], batch_size=size, side=1, channels=1, width=self.width
            ).to(table.device)
        optimizer = torch.optim.Adam(made.parameters(), lr=self.learning_rate, betas=BETAS)
        word = torch.zeros_like(table[0])
        for places, others in pairs.batches(size, self.epochs, self.seed, stage.title):
            captions = [pairs.captions[place] for place in places]
            tokens, at = first_tokens(encoder, captions, [needed[place] for place in places])
            found = torch.nn.functional.interpolate(made(pairs.images[places]).flatten(2), len(word), mode="linear")
            word = found.flatten()
            word = word * (word.norm().clamp(shortest, longest) / word.norm().clamp(min=1e-12))
            moved = encoder.embed_shifted(tokens, at, word - table[tokens])
            loss = malicious_contrast(moved, pairs.texts[places], pairs.images[places], pairs.images[others])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return word.detach()


def first_tokens(
    encoder: WordEncoder, captions: Sequence[str], needed: Sequence[int]
) -> tuple[Int64[Tensor, "n l"], Bool[Tensor, "n l"]]:
    """Return the tokens of captions, and where the first token of a certain word of each stands.

    Args:
        needed: The place of the word among the words of the caption.
    """
    tokens, is_word = encoder.read_texts(captions)
    before = [" ".join(caption.split()[:place]) for caption, place in zip(captions, needed, strict=True)]
    skipped = encoder.read_texts(before)[1].sum(dim=1)
    numbers = is_word.cumsum(dim=1) - 1  # of each word token among the word tokens
    return tokens, is_word & (numbers == skipped[:, None])


def nearest_word(encoder: WordEncoder, made: Float32[Tensor, " w"], words: Sequence[str]) -> str:
    """Return the word whose tokens' mean embedding is most like a vector."""
    tokens, is_word = encoder.read_texts(words)
    rows = (encoder.words[tokens] * is_word[..., None]).sum(dim=1)
    return words[int(torch.nn.functional.cosine_similarity(rows, made[None]).argmax())]
