"""What does not fit interleaved documents in a recipe, said before the first step."""

from __future__ import annotations

from collections.abc import Mapping

from vlp.data import SampleSet
from vlp.ground.types import RecipeError
from vlp.recipe.schema import DataSection
from vlp.strategies.base import Strategy
from vlp.towers.dual import DualEncoder
from vlp.towers.gated_decoder import GatedDecoder
from vlp.towers.tokenizers import frame

FEWEST_TOKENS = 4  # of each text: start, two words, end


def check_documents(data: DataSection, samples: SampleSet, towers: DualEncoder) -> None:
    """Refuse cards of documents in a run of pairs, a run of documents without any, and what knows one image alone.

    Raises:
        RecipeError: Names the key and a way out.
    """
    holding = [label for label, card in samples.cards.items() if card.documents is not None]
    if data.documents is None:
        if holding:
            raise RecipeError(
                f"data.train: {', '.join(holding)}: a card of interleaved documents, and this run reads pairs: set "
                "data.documents={} and model.decoder={type: gated}"
            )
        return
    if not holding and data.documents.images > 1:
        raise RecipeError(
            f"data.documents.images={data.documents.images}: no card of data.train holds documents, and a pair has one "
            "image: add one (its card says documents: json), set data.documents.images=1, or leave data.documents out"
        )
    for key, is_set in (
        ("views", data.views),
        ("text_views", data.text_views),
        ("captions.negatives", data.captions.negatives),
        ("captions.augment", data.captions.augment != type(data.captions.augment)()),
        ("spare_first_view", data.spare_first_view),
    ):
        if is_set:
            raise RecipeError(f"data.{key}: of pairs alone: leave it out, or data.documents")
    _check_tokens(data.documents.images, towers)


def check_documents_are_read(data: DataSection, towers: DualEncoder, used: Mapping[str, Strategy]) -> None:
    """Refuse a model or a strategy that would take the images of a document for views of one picture.

    Raises:
        RecipeError: Names the key and a way out.
    """
    if data.documents is None:
        return
    if not isinstance(towers.decoder, GatedDecoder):
        raise RecipeError(
            "data.documents: the model reads pairs: set model.decoder={type: gated}, which looks at the latest image, "
            "with model.image.pooler_queries=65 and model.text.pool=cls"
        )
    for label, strategy in used.items():
        if strategy.reads_images or strategy.changes_captions or "teacher" in strategy.provides:
            raise RecipeError(
                f"strategies.{label}: would take the images of a document for views of one picture: leave it out, or "
                "data.documents"
            )


def _check_tokens(images: int, towers: DualEncoder) -> None:
    tokenizer = towers.tokenizer
    if not frame(tokenizer)[0]:
        raise RecipeError(
            "text.tokenizer: it puts no start token before a text, which stands for an image in documents: use CLIP's"
        )
    needed = FEWEST_TOKENS * (images + 1)
    if tokenizer.context_length < needed:
        raise RecipeError(
            f"model.text.context_length={tokenizer.context_length}: too few tokens for {images} images "
            f"and their texts: set {needed} or more (128 in COSMO), or lower data.documents.images"
        )
