"""Interleaved documents as the public sets write them: one record to images, each with the text behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlp.data.faults import BadSampleError, net

TEXTS, SENTENCES = "texts", "text_list"  # what tells the layouts apart
IMAGES, IMAGE_INFO = "images", "image_info"
MOST_PIECES = 100_000


@dataclass(frozen=True)
class Passage:
    """A text and the image right before it; a document is a sequence of these.

    Args:
        image: Number of the image in the list of the record; None for a text before the first image.
        text: Up to the next image; may be empty.
    """

    image: int | None
    text: str


def is_document(record: Any) -> bool:
    """Whether a record is of a layout that is known here."""
    pairs = ((TEXTS, IMAGES), (SENTENCES, IMAGE_INFO))
    return isinstance(record, dict) and any(texts in record and images in record for texts, images in pairs)


def image_names(record: Mapping[str, Any]) -> dict[int, str]:
    """Return what the record calls its images, by number: a file's name, or an address.

    Raises:
        BadSampleError: As `passages`.
    """
    with net("bad_caption"):
        if TEXTS in record:
            return {number: name for number, name in enumerate(_lists(record)[1]) if isinstance(name, str) and name}
        return {number: str(image["image_name"]) for number, image in enumerate(_images(record))}


@net("bad_caption")
def passages(
    record: Mapping[str, Any], is_there: Callable[[int], bool], tidy: Callable[[str], str], least_similarity: float
) -> list[Passage]:
    """Return a document in order, without the images that are not there.

    OBELICS (Laurencon et al. 2023, arXiv:2306.16527): `texts` and `images` are lists of one length, null where the
    other has something. MMC4 (Zhu et al. 2023, arXiv:2304.06939): `text_list` has sentences, and each entry of
    `image_info` the number of the sentence that it stands before (`matched_text_index`), and how alike they are
    (`matched_sim`).

    Args:
        is_there: Whether an image of a number was kept.
        tidy: Cleans a text.
        least_similarity: Images of MMC4 that are less like their sentence are left out.

    Raises:
        BadSampleError: `bad_caption`: it is of neither layout, or an image stands at no place of its own.
    """
    if TEXTS in record:
        pieces = _in_order(record, is_there)
    elif SENTENCES in record:
        pieces = _sentence_by_sentence(record, is_there, least_similarity)
    else:
        raise BadSampleError("bad_caption", f"neither '{TEXTS}' (OBELICS) nor '{SENTENCES}' (MMC4) in the document")
    found: list[Passage] = []
    image, texts = None, list[str]()
    for piece in pieces:
        if isinstance(piece, int):
            found.append(Passage(image, tidy(" ".join(texts))))
            image, texts = piece, []
        else:
            texts.append(piece)
    found.append(Passage(image, tidy(" ".join(texts))))
    return [each for each in found if each.image is not None or each.text]


def _in_order(record: Mapping[str, Any], is_there: Callable[[int], bool]) -> list[str | int]:
    texts, images = _lists(record)
    pieces: list[str | int] = []
    for number, (text, image) in enumerate(zip(texts, images, strict=True)):
        if isinstance(text, str) and image is not None:
            raise BadSampleError("bad_caption", f"a text and an image, '{image}', at place {number}")
        if isinstance(text, str):
            pieces.append(text)
        elif image is not None and is_there(number):
            pieces.append(number)
    return pieces


def _sentence_by_sentence(
    record: Mapping[str, Any], is_there: Callable[[int], bool], least_similarity: float
) -> list[str | int]:
    sentences = _bounded(record[SENTENCES])
    before: dict[int, list[int]] = {}
    for number, image in enumerate(_images(record)):
        if is_there(number) and float(image.get("matched_sim", 1.0)) >= least_similarity:
            place = int(image["matched_text_index"])
            if not 0 <= place < len(sentences):
                raise BadSampleError(
                    "bad_caption", f"image {number} stands before sentence {place} of {len(sentences)}, which is none"
                )
            before.setdefault(place, []).append(number)
    pieces: list[str | int] = []
    for place, sentence in enumerate(sentences):
        pieces += before.get(place, [])
        pieces.append(str(sentence))
    return pieces


def _lists(record: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    texts, images = _bounded(record[TEXTS]), _bounded(record[IMAGES])
    if len(texts) != len(images):
        raise BadSampleError(
            "bad_caption", f"{len(texts)} texts beside {len(images)} images: one of both at each place"
        )
    return texts, images


def _images(record: Mapping[str, Any]) -> list[Any]:
    return _bounded(record[IMAGE_INFO])


def _bounded(pieces: Any) -> list[Any]:
    if not isinstance(pieces, list) or len(pieces) > MOST_PIECES:
        raise BadSampleError("bad_caption", f"no list of at most {MOST_PIECES} pieces")
    return pieces
