"""How captions are searched for."""

from __future__ import annotations

import copy
from typing import Annotated

from pydantic import Field

from vlp.ground.types import RecipeError


class Writing:
    """How captions are searched for: the likeliest word each time, the best of several captions, or by chance.

    Args:
        num_beams: Captions that are kept at each word, of which the best is told in the end; 1 is greedy.
        length_penalty: Power of its length by which the logarithm of a caption's probability is divided, where several
            are compared; above 0, long ones gain.
        temperature: Draw words by chance, from probabilities whose logits are divided by this; null takes the
            likeliest.
        top_k: Draw among so many likeliest words alone.
        top_p: Draw among the likeliest words that have this share of the probability together (Holtzman et al. 2020,
            arXiv:1904.09751).
        repetition_penalty: Divides the logits of words that the caption has already; 1 leaves them alone.
        min_words: Fewest tokens of a caption, without its start and end.
        max_words: Most tokens; null is what the decoder was built for.
        seed: Of the draws.
    """

    def __init__(
        self,
        *,
        num_beams: Annotated[int, Field(ge=1)] = 1,
        length_penalty: float = 1.0,
        temperature: Annotated[float, Field(gt=0)] | None = None,
        top_k: Annotated[int, Field(ge=1)] | None = None,
        top_p: Annotated[float, Field(gt=0, le=1)] | None = None,
        repetition_penalty: Annotated[float, Field(gt=0)] = 1.0,
        min_words: Annotated[int, Field(ge=0)] = 1,
        max_words: Annotated[int, Field(ge=1)] | None = 30,
        seed: int = 0,
    ):
        if temperature is None and (top_k is not None or top_p is not None):
            raise RecipeError("top_k and top_p have no effect without temperature: set temperature=1.0 to draw words")
        if num_beams == 1 and length_penalty != 1.0:
            raise RecipeError("length_penalty has no effect on a single caption: set num_beams")
        if max_words is not None and min_words > max_words:
            raise RecipeError(f"min_words {min_words} is more than max_words {max_words}: set max_words too")
        self.num_beams = num_beams
        self.length_penalty = length_penalty
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.repetition_penalty = repetition_penalty
        self.min_words = min_words
        self.max_words = max_words
        self.seed = seed

    def with_seed(self, seed: int) -> Writing:
        """Return the same with other draws."""
        other = copy.copy(self)
        other.seed = seed
        return other
