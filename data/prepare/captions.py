"""Let pairs of one name share their tags: "name, tag, tag" becomes "name" and the tags that are most common.

python data/prepare/captions.py RAW_SHARDS data/embedded/train

For each name, the tags of all pairs with that name are put together, and the MOST_TAGS that the whole set uses most are
kept. Images, keys and order stay as they are; the same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections import Counter
from pathlib import Path

MOST_TAGS = 4


def pieces(caption: str) -> list[str]:
    """Split a caption into its name and tags, in small letters."""
    return [piece for piece in (part.strip().lower() for part in caption.split(",")) if piece]


def reword(captions: list[str]) -> list[str]:
    """Return the new captions."""
    split = [pieces(caption) for caption in captions]
    uses = Counter(tag for parts in split for tag in parts[1:])
    shared: dict[str, dict[str, None]] = {}
    for name, *tags in split:
        shared.setdefault(name, {}).update(dict.fromkeys(tags))
    common = {name: sorted(tags, key=lambda tag: -uses[tag])[:MOST_TAGS] for name, tags in shared.items()}
    return [", ".join([name, *common[name]]) for name, *_ in split]


def main() -> None:
    """Reword the captions of every shard of a folder."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of tars with KEY.txt members")
    parser.add_argument("target", type=Path, help="folder for the tars with new captions")
    arguments = parser.parse_args()
    shards = {path.name: _members(path) for path in sorted(arguments.source.glob("*.tar"))}
    texts = {
        (shard, member.name): data.decode("utf-8")
        for shard, members in shards.items()
        for member, data in members
        if member.name.endswith(".txt")
    }
    new = dict(zip(texts, reword(list(texts.values())), strict=True))
    arguments.target.mkdir(parents=True, exist_ok=True)
    for shard, members in shards.items():
        with tarfile.open(arguments.target / shard, "w", format=tarfile.USTAR_FORMAT) as tar:
            for member, data in members:
                content = new[shard, member.name].encode() if (shard, member.name) in new else data
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    print(f"{len(new)} captions, {len(set(new.values()))} different")


def _members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar if member.isfile()]  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
