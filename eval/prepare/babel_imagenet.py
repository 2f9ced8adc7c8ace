"""Make Babel-ImageNet's set of a language from ImageNet's: the images of its classes, its names and its prompts.

PYTHONPATH=/tmp/clip_benchmark python eval/prepare/babel_imagenet.py $VLP_EVAL_ROOT de fr

reads $VLP_EVAL_ROOT/wds_imagenet1k and writes wds_babel_imagenet-de and -fr beside it, 50 images a class. Images are
copied as they are. Names and prompts are read from clip-benchmark; prompts.py says how to get it.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from prompts import VERSION, content_of, datasets_folder

SOURCE = "wds_imagenet1k"
SHARD_SAMPLES = 1000


def languages(folder: Path) -> dict[str, tuple[list[int], list[str], list[str]]]:
    """Return ImageNet's class numbers, their names and the prompts of each language that has prompts."""
    names = json.loads((folder / "babel_imagenet.json").read_text(encoding="utf-8"))
    prompts = json.loads((folder / "nllb_dist13b_prompts.json").read_text(encoding="utf-8"))
    return {
        code.lower(): (*names[code], [line.replace("{}", "{c}") for line in prompts[code]])
        for code in sorted(names)
        if code in prompts
    }


def members(root: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield each sample of a set: its key, and its files by the ending of their names."""
    for number in range(int((root / "test" / "nshards.txt").read_text())):
        key, files = "", dict[str, bytes]()
        with tarfile.open(root / "test" / f"{number}.tar") as tar:
            for member in tar:
                name, _, ending = member.name.partition(".")
                if files and name != key:
                    yield key, files
                    files = {}
                content = tar.extractfile(member)
                if content is not None:
                    key, files = name, files | {ending: content.read()}
        if files:
            yield key, files


def write_set(source: Path, target: Path, numbers: list[int], names: list[str], prompts: list[str]) -> int:
    """Write the samples of some classes, numbered anew, as a set; return how many there are."""
    new_number = {old: new for new, old in enumerate(numbers)}
    (target / "test").mkdir(parents=True)
    (target / "classnames.txt").write_text(content_of(names), encoding="utf-8")
    (target / "zeroshot_classification_templates.txt").write_text(content_of(prompts), encoding="utf-8")
    kept = ((key, files) for key, files in members(source) if int(files["cls"]) in new_number)
    shards = samples = 0
    while batch := list(itertools.islice(kept, SHARD_SAMPLES)):
        with tarfile.open(target / "test" / f"{shards}.tar", "w") as tar:
            for key, files in batch:
                label = str(new_number[int(files["cls"])]).encode()
                for ending, content in (files | {"cls": label}).items():
                    member = tarfile.TarInfo(f"{key}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        shards, samples = shards + 1, samples + len(batch)
    (target / "test" / "nshards.txt").write_text(f"{shards}\n")
    return samples


def main() -> None:
    """Write the sets."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help=f"folder that has {SOURCE}")
    parser.add_argument("languages", nargs="+", help="such as de")
    arguments = parser.parse_args()
    folder = datasets_folder()
    if folder is None:
        sys.exit(f"babel_imagenet: clip-benchmark {VERSION} is not installed; prompts.py says how to get it")
    known = languages(folder)
    if unknown := [language for language in arguments.languages if language not in known]:
        sys.exit(f"babel_imagenet: no names and prompts in '{unknown[0]}'; there are: {', '.join(known)}")
    for language in arguments.languages:
        target = arguments.root / f"wds_babel_imagenet-{language}"
        if target.exists():
            sys.exit(f"babel_imagenet: {target} is there; remove it first")
        print(f"{target}: {write_set(arguments.root / SOURCE, target, *known[language])} images")


if __name__ == "__main__":
    main()
