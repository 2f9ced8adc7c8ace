"""Make the list of synonyms that `data.captions.augment` reads, out of the files of WordNet.

`apt install wordnet-base` puts them under /usr/share/wordnet, then:
    python data/prepare/synonyms.py /usr/share/wordnet data/words/synonyms.tsv
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

MOST = 4  # the usual ones come first
PARTS = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}


def synonyms_of(folder: Path) -> dict[str, list[str]]:
    """Return the synonyms of each word in the one sense that is most frequent, where both are single words."""
    places = {part: _senses(folder / f"index.{part}") for part in set(PARTS.values())}
    texts = {part: (folder / f"data.{part}").read_bytes() for part in places}
    found = {}
    for word, (part, number) in sorted(_most_frequent(folder / "cntlist.rev").items()):
        if _is_plain(word) and len(senses := places[part].get(word, ())) >= number:
            others = [other for other in _members(texts[part], senses[number - 1]) if other != word]
            if plain := list(filter(_is_plain, others)):
                found[word] = plain[:MOST]
    return found


def _most_frequent(path: Path) -> dict[str, tuple[str, int]]:
    """Map each word to part of speech and number of its sense with the largest count."""
    best: dict[str, tuple[int, str, int]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, number, count = line.split()
        word, kind = key.split("%")
        if int(count) > best.get(word, (0,))[0]:
            best[word] = int(count), PARTS[kind[0]], int(number)
    return {word: (part, number) for word, (_, part, number) in best.items()}


def _senses(path: Path) -> dict[str, list[int]]:
    """Map each word to the places of its senses in the data file."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):  # the licence
            fields = line.split()
            found[fields[0]] = [int(place) for place in fields[-int(fields[2]) :]]
    return found


def _members(text: bytes, place: int) -> Iterator[str]:
    """Yield the words of one sense; names of people and places have capitals."""
    fields = text[place : text.index(b"\n", place)].decode().split()
    for number in range(int(fields[3], 16)):
        yield fields[4 + 2 * number].partition("(")[0]


def _is_plain(word: str) -> bool:
    return word.isascii() and word.isalpha() and word.islower() and len(word) > 2


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("wordnet", type=Path, help="folder with index.noun, data.noun, cntlist.rev and so on")
    parser.add_argument("target", type=Path, help="file to write")
    arguments = parser.parse_args()
    found = synonyms_of(arguments.wordnet)
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join([word, *others]) for word, others in found.items()]
    arguments.target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{arguments.target}: {len(lines)} words")


if __name__ == "__main__":
    main()
