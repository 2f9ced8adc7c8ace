"""Write eval/results/published.yaml: what open_clip's own tables say of well-known models, for tasks that are here.

python eval/prepare/published.py OPEN_CLIP_CHECKOUT

Reads docs/openclip_results.csv and docs/openclip_retrieval_results.csv of the commit that is checked out. Run it again
when tasks are added; columns whose task has no card under eval/ are left out.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
from collections.abc import Iterator
from pathlib import Path

from open_clip.pretrained import get_pretrained_cfg

ROOT = Path(__file__).resolve().parent.parent
GITHUB = "https://github.com/mlfoundations/open_clip/blob"
MODELS = (
    ("RN50", "openai"),
    ("ViT-B-32", "openai"),
    ("ViT-B-16", "openai"),
    ("ViT-L-14", "openai"),
    ("ViT-L-14-336", "openai"),
    ("ViT-B-32", "laion2b_s34b_b79k"),
    ("ViT-B-16", "laion2b_s34b_b88k"),
    ("ViT-L-14", "laion2b_s32b_b82k"),
    ("ViT-H-14", "laion2b_s32b_b79k"),
    ("ViT-B-32", "datacomp_xl_s13b_b90k"),
    ("ViT-B-16", "datacomp_xl_s13b_b90k"),
    ("ViT-L-14", "datacomp_xl_s13b_b90k"),
    ("ViT-B-16-SigLIP", "webli"),
)
ACCURACIES = {
    "ImageNet 1k": "imagenet1k",
    "ImageNet Sketch": "imagenet_sketch",
    "ImageNet v2": "imagenetv2",
    "ImageNet-A": "imagenet-a",
    "ImageNet-O": "imagenet-o",
    "ImageNet-R": "imagenet-r",
    "ObjectNet": "objectnet",
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "CLEVR Counts": "clevr_count_all",
    "CLEVR Distance": "clevr_closest_object_distance",
    "Country211": "country211",
    "EuroSAT": "eurosat",
    "Describable Textures": "dtd",
    "Food-101": "food101",
    "GTSRB": "gtsrb",
    "MNIST": "mnist",
    "KITTI Vehicle Distance": "kitti_closest_vehicle_distance",
    "Pascal VOC 2007": "voc2007",
    "PatchCamelyon": "pcam",
    "Rendered SST2": "renderedsst2",
    "RESISC45": "resisc45",
    "Stanford Cars": "cars",
    "STL-10": "stl10",
    "SUN397": "sun397",
    "SVHN": "svhn",
}
RECALLS = {
    "Caltech-101": "caltech101",
    "FGVC Aircraft": "fgvc_aircraft",
    "Oxford Flowers-102": "flowers",
    "Oxford-IIIT Pet": "pets",
}
RETRIEVAL = {"Flickr": "flickr30k", "MSCOCO": "mscoco_captions"}
COLUMNS = {
    "openclip_results": {
        **{column: (task, "acc1") for column, task in ACCURACIES.items()},
        **{column: (task, "mean_per_class_recall") for column, task in RECALLS.items()},
        **{column: (task, "mean_recall@1") for column, task in RETRIEVAL.items()},
    },
    "openclip_retrieval_results": {
        f"{column} {theirs} retr. R@{k}": (task, f"{ours}_recall@{k}")
        for column, task in RETRIEVAL.items()
        for theirs, ours in (("image", "text_to_image"), ("text", "image_to_text"))
        for k in (1, 5, 10)
    },
}
"""Columns of each table, with the task and the metric of DataComp's protocol."""


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("open_clip", type=Path, help="folder of a git checkout of open_clip")
    parser.add_argument("--to", type=Path, default=ROOT / "results" / "published.yaml")
    arguments = parser.parse_args()
    arguments.to.write_text("\n".join(write(arguments.open_clip)) + "\n", encoding="utf-8")


def write(repository: Path) -> Iterator[str]:
    """Yield the lines of the file."""
    commit = git(repository, "rev-parse", "HEAD").strip()
    yield "# What open_clip's own tables say of well-known models; written by eval/prepare/published.py."
    yield "# vlp eval ViT-B-32:openai --tasks imagenet1k --against results/published.yaml"
    yield "sources:"
    for table in COLUMNS:
        yield f"  {table}:"
        yield f"    address: {GITHUB}/{commit}/docs/{table}.csv"
        yield f"    commit: {commit}"
        yield "    digits: 4"
        yield "    protocol: following DataComp, Gadre et al. 2023, arXiv:2304.14108"
    yield "models:"
    for name, tag in MODELS:
        hub = get_pretrained_cfg(name, tag)["hf_hub"].strip("/")
        yield f"  {name}:{tag}: ['hf-hub:{hub}']"
    yield "numbers:"
    for table in COLUMNS:
        yield from numbers_of(table, git(repository, "show", f"{commit}:docs/{table}.csv"))


def numbers_of(table: str, content: str) -> Iterator[str]:
    """Yield a line for each number of a table.

    Raises:
        KeyError: The table lacks a model or a column.
    """
    rows = {(row["name"], row["pretrained"]): row for row in csv.DictReader(content.splitlines())}
    for name, tag in MODELS:
        for column, (task, metric) in COLUMNS[table].items():
            value = rows[name, tag][column]
            if (ROOT / f"{task}.yaml").is_file():
                number = f"model: {name}:{tag}, task: {task}, metric: {metric}, value: {value}, source: {table}"
                yield f"  - {{{number}}}"


def git(repository: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(repository), *words], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
