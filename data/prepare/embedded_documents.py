"""Make interleaved documents of the shipped pairs: pictures that share a tag, each with its name and tags behind it.

python data/prepare/embedded_documents.py documents embedded embedded-photos
vlp data pack documents --to embedded-documents

Writes a JSON file per document, in the layout of OBELICS, and its images beside it. A document begins with a text about
what its pictures share; some pictures have no text behind them, as on the web. The same cards give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from vlp.data import Captions, SampleSet
from vlp.data.samples import Sample
from vlp.data.shards.cards import load_card

SHORTEST, LONGEST = 2, 5  # images of a document
BARE = 7  # each seventh picture but the last of a document has no text


def tags_of(sample: Sample) -> list[str]:
    """Return the name of a picture, then its tags."""
    return [piece.strip() for piece in Captions().first(sample).split(",") if piece.strip()]


def groups_of(cards: list[str]) -> dict[str, list[Sample]]:
    """Return the pictures of each first tag, in the order of the cards."""
    samples = SampleSet({name: load_card(name) for name in cards})
    groups: dict[str, list[Sample]] = {}
    for sample in (samples[number] for number in range(len(samples))):
        name, *tags = tags_of(sample)
        if tags and tags[0] != name:
            groups.setdefault(tags[0], []).append(sample)
    return {tag: found for tag, found in groups.items() if len(found) >= SHORTEST}


def documents_of(tag: str, samples: list[Sample]) -> Iterator[list[Sample]]:
    """Yield the pictures of each document about a tag: two to five, spread over all that have it."""
    size = SHORTEST + len(tag) % (LONGEST - SHORTEST + 1)
    count = max(1, len(samples) // size)
    yield from (samples[start::count][:LONGEST] for start in range(count))


def write(folder: Path, number: int, tag: str, samples: list[Sample]) -> None:
    """Write one document and its images."""
    texts: list[str | None] = [f"Pictures of {tag}, {len(samples)} of them."]
    images: list[str | None] = [None]
    for place, sample in enumerate(samples):
        member = sample.image_member()
        name = f"{number:05d}_{place}.{member}"
        (folder / name).write_bytes(sample.read(member))
        texts.append(None)
        images.append(name)
        if (number + place) % BARE or place == len(samples) - 1:
            texts.append(f"This is {', '.join(tags_of(sample))}.")
            images.append(None)
    record = {"texts": texts, "images": images, "general_metadata": {"tag": tag}}
    (folder / f"{number:05d}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write the documents of some cards to a folder."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where documents and images go")
    parser.add_argument("cards", nargs="+", help="cards of pairs with captions such as 'name, tag, tag'")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for tag, found in groups_of(arguments.cards).items():
        for samples in documents_of(tag, found):
            write(arguments.folder, number, tag, samples)
            number += 1
    print(f"{number} documents in {arguments.folder}")


if __name__ == "__main__":
    main()
