"""Make the cards of RefCOCO, RefCOCO+ and RefCOCOg from parquet files that hold the images as well.

hf download jxu124/refcoco-benchmark --repo-type dataset --local-dir refcoco-benchmark
python eval/prepare/refcoco.py refcoco-benchmark $VLP_EVAL_ROOT

A row there is an image with its objects: boxes as left, top, width and height in pixels, and the expressions that mean
them. Writes wds_refcoco, wds_refcocoplus and wds_refcocog, with a shard and a card for each split that is found: images
as they are, boxes in shares of width and height, expressions in the spelling that is usually scored (`sent`).
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from pyarrow.parquet import ParquetFile

SETS = {
    "refcoco": ("refcoco_unc", ("val", "testA", "testB")),
    "refcocoplus": ("refcoco_plus_unc", ("val", "testA", "testB")),
    "refcocog": ("refcocog_umd", ("val", "test")),
}
CARD = """\
name: {name}
shards: {split}.tar
samples: {samples}
captions: {{json.regions.caption: 1.0}}
regions: json.regions
licence: annotations Apache-2.0 (refer), images as in COCO's own list of licences
home: https://github.com/lichengunc/refer and https://huggingface.co/datasets/jxu124/refcoco-benchmark
"""
ROWS = 64  # that are read at once
SUFFIXES = {"JPEG": "jpg", "PNG": "png"}


def rows_of(files: Iterable[Path]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of some files."""
    for path in files:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS, columns=["image", "ref_list"]):
                yield from batch.to_pylist()


def sample_of(row: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a sample by their endings."""
    content = row["image"]["bytes"]
    with Image.open(io.BytesIO(content)) as image:
        suffix, width, height = SUFFIXES[str(image.format)], image.width, image.height
    regions = []
    for each in row["ref_list"]:
        left, top, across, down = each["ann_info"]["bbox"]
        box = [left / width, top / height, min((left + across) / width, 1), min((top + down) / height, 1)]
        regions += [{"box": box, "caption": said["sent"]} for said in each["ref_info"]["sentences"]]
    return {suffix: content, "json": json.dumps({"regions": regions}).encode()}


def write_split(files: list[Path], folder: Path, split: str) -> int:
    """Write the shard and the card of a split; return how many samples it has."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = 0
    with tarfile.open(folder / f"{split}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for row in rows_of(files):
            for suffix, content in sample_of(row).items():
                info = tarfile.TarInfo(f"{samples:06d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            samples += 1
    name = f"{folder.name.removeprefix('wds_')}-{split}"
    (folder / f"{split}.yaml").write_text(CARD.format(name=name, split=split, samples=samples))
    return samples


def main() -> None:
    """Write the cards of all splits whose files are there."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder that holds the parquet files, or data/ with them")
    parser.add_argument("root", type=Path, help="where the sets go")
    arguments = parser.parse_args()
    found = 0
    for name, (prefix, splits) in SETS.items():
        for split in splits:
            files = sorted(arguments.source.rglob(f"{prefix}_{split}-*.parquet"))
            if files:
                found += 1
                samples = write_split(files, arguments.root / f"wds_{name}", split)
                print(f"{name}-{split}: {samples} images")
    if not found:
        raise SystemExit(f"{arguments.source}: no file such as refcoco_unc_val-00000-of-00001.parquet")


if __name__ == "__main__":
    main()
