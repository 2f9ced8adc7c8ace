"""Rows as samples of an evaluation set: what stands beside each image, by the kind of the set."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from vlp.curate.sources.rows import Row, Rows
from vlp.data import Captions
from vlp.data.faults import BadSampleError
from vlp.evaluators.layout import KINDS

SetKind = Literal["classification", "retrieval", "multilabel", "choice"]
OF_CLASSES = ("classification", "multilabel")


@dataclass(frozen=True)
class Labels:
    """How the captions of a source become what an evaluator reads.

    Args:
        caption_keys: Where the source has its captions.
        class_names: Of classification and multilabel sets, in the order of their numbers.
        words: What the source calls these classes, where it is something else; otherwise names or numbers.
    """

    kind: SetKind
    caption_keys: Mapping[str, float]
    class_names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def members(self, row: Row) -> dict[str, bytes]:
        """Return what stands beside the image of a row.

        Raises:
            BadSampleError: The row says nothing that a set of this kind could hold.
        """
        names = () if self.words else self.class_names
        texts = Captions(class_names=names).all(row.texts(self.caption_keys))
        return MEMBERS[self.kind](texts, self.places)

    @property
    def member(self) -> str:
        """Extension of what stands beside each image."""
        return KINDS[self.kind][0]

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Numbers of classes by what the source calls them."""
        return {word: number for number, word in enumerate(self.words or self.class_names)}


@dataclass(frozen=True)
class SetRow(Row):
    """A row that packs as a sample of an evaluation set."""

    labels: Labels = field(kw_only=True)

    def members(self, _caption_keys: Mapping[str, float]) -> dict[str, bytes]:
        """Return image and label by extension.

        Raises:
            BadSampleError: An evaluator could not read one of them.
        """
        return {**self.labels.members(self), **self.image_member()}


@dataclass(frozen=True)
class SetRows:
    """Some consecutive rows of a source that pack as an evaluation set."""

    rows: Rows
    labels: Labels

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            yield SetRow(**vars(row), labels=self.labels)

    def fingerprint(self) -> str:
        """Return a checksum that changes with the rows and with what their labels mean."""
        known = f"{self.rows.fingerprint()} {self.labels!r}"
        return hashlib.sha256(known.encode(errors="replace")).hexdigest()


def _class(texts: list[str], places: Mapping[str, int]) -> dict[str, bytes]:
    if len(texts) > 1:
        raise BadSampleError("bad_caption", f"{len(texts)} classes, and a classification set has one per image")
    return {"cls": str(_place(texts[0], places)).encode()}


def _classes(texts: list[str], places: Mapping[str, int]) -> dict[str, bytes]:
    present = np.zeros(len(places), dtype=np.int8)
    present[[_place(text, places) for text in texts]] = 1
    file = io.BytesIO()
    np.save(file, present)
    return {"npy": file.getvalue()}


def _lines(texts: list[str], _places: Mapping[str, int]) -> dict[str, bytes]:
    return {"txt": "\n".join(texts).encode()}


def _choices(texts: list[str], places: Mapping[str, int]) -> dict[str, bytes]:
    if len(texts) < 2:
        raise BadSampleError("bad_caption", "one caption; the right one comes first, wrong ones follow")
    if texts[0] in texts[1:]:
        raise BadSampleError("bad_caption", f"the right caption, '{texts[0][:50]}', is among the wrong ones")
    return _lines(texts, places)


def _place(text: str, places: Mapping[str, int]) -> int:
    if text not in places:
        raise BadSampleError("bad_caption", f"'{text[:50]}' is none of the {len(places)} classes")
    return places[text]


MEMBERS: Mapping[SetKind, Callable[[list[str], Mapping[str, int]], dict[str, bytes]]] = {
    "classification": _class,
    "multilabel": _classes,
    "retrieval": _lines,
    "choice": _choices,
}
