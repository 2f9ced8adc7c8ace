"""Paste shipped drawings on canvases, so that boxes are known exactly: cards of captions of regions.

python data/prepare/embedded_canvases.py canvases
vlp train locca_embedded

Writes shards and two cards, the licences of the drawings, and a tokenizer of the few words that occur. Each canvas has
one to three different drawings on grey, which do not touch; its caption names them all, and each of its regions one.
The same card gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vlp.data import Captions, SampleSet
from vlp.data.pixels.decode import decode_image
from vlp.data.shards.cards import Card, load_card
from vlp.ground.randomness import Draws

SIDE = 48  # of a canvas, in pixels
SMALLEST, LARGEST = 12, 20  # longer sides of drawings
FEWEST, MOST = 1, 3  # drawings on a canvas
GREY = (118, 118, 118)  # about 0 once pixels are normalised, and unlike what is around drawings
TRIES = 50  # to find a free place for a drawing
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
PARTS = {"canvases": 4096, "held-out": 512}
WHITE = 250  # from here on a pixel is the margin of a drawing


def drawings_of(card: Card, count: int) -> dict[str, Image.Image]:
    """Return drawings without their white margins, by name: those with a name of one word, spread over the card."""
    samples = SampleSet({card.name: card})
    named: dict[str, int] = {}
    for number in range(len(samples)):
        name = Captions().first(samples[number]).split(",")[0].strip()
        if re.fullmatch("[a-z]{3,10}", name):
            named.setdefault(name, number)
    names = sorted(named)[:: len(named) // count][:count]
    return {name: trimmed(decode_image(samples[named[name]].read_image())) for name in names}


def trimmed(drawing: Image.Image) -> Image.Image:
    """Cut white margins off."""
    is_drawn = np.asarray(drawing).min(axis=2) < WHITE
    rows, columns = (np.flatnonzero(is_drawn.any(axis=axis)) for axis in (1, 0))
    return drawing.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


def canvas(drawings: dict[str, Image.Image], draws: Draws) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Return a canvas and its regions."""
    image, regions, taken = Image.new("RGB", (SIDE, SIDE), GREY), [], np.zeros((SIDE, SIDE), dtype=bool)
    names = list(drawings)
    draws.shuffle(names)
    for name in names[: FEWEST + draws.integer(MOST - FEWEST + 1)]:
        longest = SMALLEST + draws.integer(LARGEST - SMALLEST + 1)
        drawing = drawings[name]
        width, height = (max(1, round(side * longest / max(drawing.size))) for side in drawing.size)
        for _ in range(TRIES):
            left, top = draws.integer(SIDE - width + 1), draws.integer(SIDE - height + 1)
            if not taken[top : top + height, left : left + width].any():
                taken[top : top + height, left : left + width] = True
                image.paste(drawing.resize((width, height), Image.Resampling.LANCZOS), (left, top))
                box = [left / SIDE, top / SIDE, (left + width) / SIDE, (top + height) / SIDE]
                regions.append({"box": box, "caption": name})
                break
    return image, regions


def samples_of(drawings: dict[str, Image.Image], part: str) -> Iterator[tuple[str, bytes]]:
    """Yield the members of all canvases of a part."""
    for number in range(PARTS[part]):
        image, regions = canvas(drawings, Draws(list(PARTS).index(part), number))
        file = io.BytesIO()
        image.save(file, "PNG")
        record = {"caption": " ".join(region["caption"] for region in regions), "regions": regions}
        yield f"{number:06d}.png", file.getvalue()
        yield f"{number:06d}.json", json.dumps(record).encode()


def write_part(folder: Path, part: str, drawings: dict[str, Image.Image], source: Card) -> None:
    """Write the shard and the card of a part."""
    with tarfile.open(folder / f"{part}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in samples_of(drawings, part):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 0, 0o644
            archive.addfile(info, io.BytesIO(data))
    card = {
        "name": part,
        "shards": f"{part}.tar",
        "samples": PARTS[part],
        "captions": {"json.caption": 1.0},
        "regions": "json.regions",
        "licence": source.licence,
        "home": source.home,
    }
    YAML().dump(card, folder / f"{part}.yaml")


def write_words(folder: Path, words: list[str]) -> None:
    """Write a tokenizer that knows these words alone."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*MARKS, *words])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def main() -> None:
    """Write everything to a folder."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where cards, shards and the tokenizer go")
    parser.add_argument("--drawings", type=int, default=8, help="how many different ones there are")
    arguments = parser.parse_args()
    source, folder = load_card("embedded"), arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    drawings = drawings_of(source, arguments.drawings)
    for part in PARTS:
        write_part(folder, part, drawings, source)
    write_words(folder / "words", sorted(drawings))
    shutil.copytree(source.folder / "embedded" / "licenses", folder / "embedded" / "licenses", dirs_exist_ok=True)
    shutil.copy(source.folder / "embedded" / "LICENSES.md", folder / "embedded" / "LICENSES.md")
    print(f"{folder}: {', '.join(f'{count} {part}' for part, count in PARTS.items())} of {', '.join(drawings)}")


if __name__ == "__main__":
    main()
