"""What is shown of an interleaved document: which of its images, and the texts that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import EXTENSIONS
from vlp.data.samples import Sample
from vlp.data.texts.captions import Captions
from vlp.data.texts.document_layouts import Passage, passages
from vlp.data.texts.sample_texts import read_record
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError


@dataclass(frozen=True)
class Excerpt:
    """A part of a document.

    Args:
        images: Members of the sample, in order.
        texts: The text before the first image, then that behind each.
        identity: Excerpts that share it are no negatives of each other.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    identity: str


class Documents:
    """Choose an excerpt of a document: images that follow each other, and the texts around them.

    Where a document has more images than are shown, the first of them is drawn. A pair is a document of one image.

    Args:
        images: Most images of a sample, each of which is an image view; samples of fewer leave views black, which
            nobody looks at.
        lead: Most words of the text right before the first image; how many is drawn. They are seen and not predicted.
        least_similarity: Images of MMC4 that are less like their sentence (`matched_sim`) are left out; 0.24 in COSMO.
    """

    def __init__(self, *, images: int = 3, lead: int = 20, least_similarity: float = 0.0):
        for name, value, least in (("images", images, 1), ("lead", lead, 0)):
            if value < least:
                raise RecipeError(f"data.documents.{name}: {value} must be at least {least}")
        self.images = images
        self.lead = lead
        self.least_similarity = least_similarity

    def __call__(self, sample: Sample, captions: Captions, draws: Draws) -> Excerpt:
        """Return what is shown of a sample of a card of documents.

        Raises:
            BadSampleError: It is no document, it has no image, or none of those drawn has a text behind it.
        """
        found = _read(sample, captions, self.least_similarity)
        before = [number for number, passage in enumerate(found) if passage.image is not None]
        start = before[draws.integer(max(0, len(before) - self.images) + 1)]
        shown = found[start : start + self.images]
        lead = found[start - 1].text.split() if start else []
        words = draws.integer(self.lead + 1)
        texts = (" ".join(lead[max(0, len(lead) - words) :]), *(passage.text for passage in shown))
        if not any(texts[1:]):
            raise BadSampleError("empty_caption", f"no text behind any of {len(shown)} images")
        return Excerpt(_members(sample, shown), texts, "\n".join(texts[1:]).lower())


def document_images(sample: Sample) -> tuple[str, ...]:
    """Return the members that are the images of a document, whose texts are read too.

    Raises:
        BadSampleError: It cannot be trained on: as `Documents`, for all of its images together.
    """
    found = [passage for passage in _read(sample, Captions()) if passage.image is not None]
    if not any(passage.text for passage in found):
        raise BadSampleError("empty_caption", f"no text behind any of {len(found)} images")
    return _members(sample, found)


def _read(sample: Sample, captions: Captions, least_similarity: float = 0.0) -> list[Passage]:
    key = sample.card.documents
    assert key is not None, "only samples of such cards are read as documents"
    if key not in sample.members:
        raise BadSampleError("missing_caption", f"no {key} among {', '.join(sample.members)}")
    found = passages(
        read_record(sample, key),
        lambda number: _image_member(sample, number) is not None,
        lambda text: captions.tidy(text, key),
        least_similarity,
    )
    if all(passage.image is None for passage in found):
        raise BadSampleError("missing_image", f"none of the images of the document among {', '.join(sample.members)}")
    return found


def _image_member(sample: Sample, number: int) -> str | None:
    return next((name for name in (f"{number}.{kind}" for kind in EXTENSIONS) if name in sample.members), None)


def _members(sample: Sample, shown: Sequence[Passage]) -> tuple[str, ...]:
    members = (_image_member(sample, passage.image) for passage in shown if passage.image is not None)
    return tuple(member for member in members if member is not None)
