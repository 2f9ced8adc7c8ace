"""Shards of interleaved documents, small enough for a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from tests.shards import LetterTokenizer, Members, image_bytes, write_tar
from vlp.data import Card


def obelics(*pieces: str | int) -> dict[str, Any]:
    """Return a record in the layout of OBELICS: texts and numbers, which are images."""
    return {
        "texts": [piece if isinstance(piece, str) else None for piece in pieces],
        "images": [None if isinstance(piece, str) else f"https://example.org/{piece}.jpg" for piece in pieces],
    }


def document(key: str, record: Mapping[str, Any], images: Mapping[int, bytes | int]) -> Members:
    """Return the members of one document.

    Args:
        images: Bytes of each image, or the number that a good one is drawn from, by place in the list of the record.
    """
    encoded = {place: image if isinstance(image, bytes) else image_bytes(image) for place, image in images.items()}
    members = [(f"{key}.{place}.jpg", data) for place, data in encoded.items()]
    return [(f"{key}.json", json.dumps(record).encode()), *members]


def write_documents(folder: Path, documents: list[Members], per_shard: int = 8) -> Card:
    """Write shards of documents, and a card beside them, which is returned."""
    for shard, first in enumerate(range(0, len(documents), per_shard)):
        write_tar(folder / f"{shard:05d}.tar", chain.from_iterable(documents[first : first + per_shard]))
    (folder / "card.yaml").write_text("name: documents\nshards: '*.tar'\ndocuments: json\n")
    return Card(name="documents", shards="*.tar", documents="json", folder=folder)


class StartTokenizer(LetterTokenizer):
    """A start token, 1, one token per letter, and an end token, 2."""

    context_length = 24

    def __call__(self, texts):
        rows = [[1, *text.encode()[: self.context_length - 2], 2] for text in texts]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
        return tokens, torch.tensor([len(row) for row in rows])
