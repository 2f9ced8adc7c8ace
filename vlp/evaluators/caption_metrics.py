"""How alike the captions that a model writes are to those of people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, Metric, PerSample, RecipeError
from vlp.towers.writing import Writing

Measure = Literal["bleu", "rouge_l", "cider", "meteor"]
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})  # quotes
KEPT_EXAMPLES = 20


@evaluators.register("caption_metrics")
class CaptionMetrics:
    """Write a caption for each image and compare it with all captions of the set, by the code of COCO's challenge.

    BLEU of one to four words (Papineni et al. 2002), over the whole set; ROUGE-L (Lin 2004) and CIDEr-D (Vedantam et
    al. 2015, arXiv 1411.5726), which weighs words by how few images of the set they stand at, means over images; METEOR
    (Denkowski & Lavie 2014) on request. All of them are the package's `pycocoevalcap`; captions are split into words by
    NLTK's Treebank rules, in lower case and without punctuation, as the challenge's Java program does.

    Args:
        measures: Which of them; `meteor` runs Java, which must be installed.
        num_beams: Captions that are kept at each word, of which the best is told in the end; 1 is greedy.
        length_penalty: Power of its length by which the logarithm of a caption's probability is divided, where several
            are compared.
        min_words: Fewest tokens of a caption.
        max_words: Most tokens.
    """

    def __init__(
        self,
        data: EvaluationSet,
        *,
        measures: tuple[Measure, ...] = ("bleu", "rouge_l", "cider"),
        num_beams: PositiveInt = 1,
        length_penalty: float = 1.0,
        min_words: int = 1,
        max_words: PositiveInt = 30,
    ):
        check_kind(data, "retrieval")
        check_packages()
        self.data = data
        self.measures = measures
        self.writing = Writing(
            num_beams=num_beams, length_penalty=length_penalty, min_words=min_words, max_words=max_words
        )
        self.texts = tuple(caption for listed in data.captions for caption in listed)

    @staticmethod
    def check_decoder(decoder: str | None) -> None:
        """Refuse a model that writes no captions, and an environment that cannot score them."""
        check_packages()
        if decoder is None:
            raise RecipeError("the model has no decoder of captions")

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Write captions and score them."""
        return score_captions(encoder.captions(self.data, self.writing), self.data.captions, self.measures)


def score_captions(
    captions: Sequence[str], references: Sequence[Sequence[str]], measures: Sequence[Measure]
) -> Evaluation:
    """Score a caption of each image by those of people."""
    found = {place: [words_of(caption)] for place, caption in enumerate(captions)}
    wanted = {place: [words_of(each) for each in listed] for place, listed in enumerate(references)}
    metrics: list[Metric] = []
    samples: dict[str, PerSample] = {}
    for measure in measures:
        for name, value, each in MEASURES[measure](wanted, found):
            if each is None:
                metrics.append(Metric(name, value, len(captions)))
            else:
                metrics.append(mean(name, each))
                samples[name] = PerSample(each.tolist())
    examples = [
        {"caption": caption, "references": list(listed)}
        for caption, listed in zip(captions[:KEPT_EXAMPLES], references, strict=False)
    ]
    return Evaluation(tuple(metrics), {"distinct": len(set(captions)), "examples": examples}, samples)


def words_of(caption: str) -> str:
    """Return the words of a caption with a space between them, as COCO's challenge splits it."""
    from nltk.tokenize import TreebankWordTokenizer
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    split = TreebankWordTokenizer().tokenize
    sentences = SENTENCE_END.split(caption.translate(STRAIGHT).strip())
    parts = [split(sentence, convert_parentheses=True) for sentence in sentences]
    return " ".join(word.lower() for part in parts for word in part if word.lower() not in PUNCTUATIONS)


def check_packages() -> None:
    """Refuse where the metrics are not installed.

    Raises:
        RecipeError: Says what to install.
    """
    try:
        import nltk  # noqa: F401
        import pycocoevalcap  # noqa: F401
    except ImportError as error:
        raise RecipeError(f"evaluator caption_metrics needs pip install 'vlp[captions]' ({error})") from error


Scored = list[tuple[str, float, NDArray[np.float64] | None]]
Texts = Mapping[int, list[str]]


def _bleu(wanted: Texts, found: Texts) -> Scored:
    from pycocoevalcap.bleu.bleu import Bleu

    values, _ = Bleu(4).compute_score(wanted, found, verbose=0)
    return [(f"bleu{length}", float(value), None) for length, value in enumerate(values, start=1)]


def _mean_of(name: str, scorer: Any, wanted: Texts, found: Texts) -> Scored:
    value, each = scorer.compute_score(wanted, found)
    return [(name, float(value), np.asarray(each, dtype=np.float64))]


def _rouge(wanted: Texts, found: Texts) -> Scored:
    from pycocoevalcap.rouge.rouge import Rouge

    return _mean_of("rouge_l", Rouge(), wanted, found)


def _cider(wanted: Texts, found: Texts) -> Scored:
    from pycocoevalcap.cider.cider import Cider

    return _mean_of("cider", Cider(), wanted, found)


def _meteor(wanted: Texts, found: Texts) -> Scored:
    from pycocoevalcap.meteor.meteor import Meteor

    try:
        scorer = Meteor()
    except OSError as error:
        raise RecipeError(f"settings.measures: meteor runs Java, which is not here ({error}): leave it out") from error
    value, _ = scorer.compute_score(wanted, found)  # what it says of one image is no part of a mean
    return [("meteor", float(value), None)]


MEASURES = {"bleu": _bleu, "rouge_l": _rouge, "cider": _cider, "meteor": _meteor}
