"""Vectors in front of class names, where a frozen text tower expects words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vlp.ground.offers import offers
from vlp.ground.types import Encoder, RecipeError, WordEncoder

TEXTS = 2048  # of one pass; of more that carry gradients, each pass is computed once more


class ClassContexts:
    """Texts `CONTEXT NAME.` of all classes, whose context may be any vectors.

    Tokens of the names and their places are found once; whatever stands in front, the tower looks the names up itself.

    Args:
        encoder: A model whose words can be moved: one whose text tower open_clip builds or wraps, whatever its source;
            no pair of ONNX files, no head, no joined models, and none that transformers alone can run.
        context: Words that the vectors begin as, a vector per token.
        setting: What calls the context, for messages.

    Raises:
        RecipeError: The words of the model cannot be moved, or those of the context are others in front of a name.

    Attributes:
        start: The context as the tower knows it.
    """

    def __init__(self, encoder: Encoder, class_names: Sequence[str], context: str, setting: str = "settings.context"):
        if not offers(encoder, WordEncoder):
            raise RecipeError(
                f"prompts cannot be learned for a {type(encoder).__name__}, whose token embeddings are out of reach: "
                "those of text towers that open_clip builds or wraps are not (CLIP and SigLIP of transformers among "
                "them); few_shot and tip_adapter take any model"
            )
        self.encoder: WordEncoder = encoder
        known, is_context = encoder.read_texts([context])
        words: Int64[Tensor, " m"] = known[0, is_context[0]]
        self.tokens, is_word = encoder.read_texts([f"{context} {name}." for name in class_names])
        self.places = is_word & (is_word.cumsum(dim=1) <= len(words))
        self.start: Float32[Tensor, "m w"] = encoder.words[words].float().clone()
        if not len(words):
            raise RecipeError(f"{setting} is '{context}', which has no word to learn from")
        for name, row, at, is_any in zip(class_names, self.tokens, self.places, is_word, strict=True):
            if row[at].tolist() != words.tolist():
                raise RecipeError(f"{setting}: '{context}' is read as other tokens in front of '{name}'; give another")
            if bool((is_any == at).all()):
                raise RecipeError(f"{setting}: behind '{context}' no token of '{name}' is left of the model's context")

    def __len__(self) -> int:
        return len(self.tokens)

    def embed(self, contexts: Float32[Tensor, "n m w"]) -> Float32[Tensor, "n c d"]:
        """Embed the texts of all classes for each context, of unit norm; gradients reach contexts that ask for them."""
        numbers = torch.arange(len(contexts) * len(self), device=contexts.device)
        parts = numbers.split(TEXTS)
        if len(parts) > 1 and torch.is_grad_enabled() and contexts.requires_grad:
            rows = [self._embed_again(contexts, part) for part in parts]
        else:
            rows = [self._embed(contexts, part) for part in parts]
        return torch.cat(rows).unflatten(0, (len(contexts), len(self)))

    def _embed_again(self, contexts: Float32[Tensor, "n m w"], numbers: Int64[Tensor, " t"]) -> Float32[Tensor, "t d"]:
        rows: Tensor = checkpoint(self._embed, contexts, numbers, use_reentrant=False, preserve_rng_state=False)
        return rows

    def _embed(self, contexts: Float32[Tensor, "n m w"], numbers: Int64[Tensor, " t"]) -> Float32[Tensor, "t d"]:
        classes = numbers % len(self)
        tokens, places = self.tokens[classes], self.places[classes]
        moved = contexts[numbers // len(self)] - self.start
        shift = moved.new_zeros(*tokens.shape, moved.shape[-1])
        return self.encoder.embed_shifted(tokens, places, shift.masked_scatter(places[..., None], moved))
