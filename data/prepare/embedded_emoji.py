"""Extend the embedded image-text training set with more emoji vendors and icons.

The base folder holds WebDataset shards (``train/*.tar``), evaluation sets
(``eval/*/test/0.tar``), ``manifest.json`` and ``LICENSES.md``.  This script
copies it, renders further permissively licensed drawings to 96 px WebP on a
white background, drops everything that equals or nearly equals an evaluation
image, and writes the rest as further training shards.

Needs ``resvg_py``, ``pillow`` and ``numpy``, and a ``node_modules`` folder with
the npm packages ``@iconify/json`` 2.2.535, ``emojibase-data`` 17.0.0 and
``emojilib`` 4.0.3.  The output depends on the arguments and these versions only.

    python embedded_emoji.py --base embedded --node-modules node_modules \
        --output extended --licenses licenses
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emoji_names import PEOPLE, Emoji, emoji_caption, emoji_codes, load_emoji, name_table, read_json
from iconify import icon_svg
from rendering import SIZE, grey, is_blank, on_white, rasterise
from shards import encode, hash_file, shard_images, write_shard

# Emoji vendors in the order of preference, with the padding in pixels that gives
# them the margin of the shipped sets.  Held out: openmoji and every fluent-* set.
EMOJI_PAD = {"twemoji": 6.0, "emojione": 4.0, "fxemoji": 5.0, "streamline-emojis": 3.0}

# Icon sets for the concepts below.  Held out: carbon, iconoir, healthicons,
# game-icons, temaki, and the sets that share drawings with temaki.
ICON_PAD = {
    "icon-park": 1.0,
    "streamline-plump-color": 4.0,
    "streamline-color": 4.0,
    "streamline-flex-color": 4.0,
    "streamline-sharp-color": 4.0,
    "streamline-kameleon-color": 4.0,
    "streamline-cyber-color": 4.0,
    "streamline-ultimate-color": 4.0,
    "streamline-freehand-color": 4.0,
    "streamline-stickies-color": 4.0,
    "flat-color-icons": 2.0,
    "glyphs-poly": 2.0,
    "mdi": 0.0,
    "material-symbols": 0.0,
    "tabler": 0.0,
    "ph": 0.0,
    "lucide": 0.0,
    "mingcute": 0.0,
    "fa6-solid": 4.0,
}

# Concept words of icons: category or tags -> base names of icons.
CONCEPTS = {
    "tool, hand tool": (
        "hammer, claw hammer, pliers, plier, tools pliers wire stripper, screwdriver, "
        "wrench, spanner, saw, hand saw, axe, pickaxe, shovel, ladder, toolbox, tool box, "
        "toolkit, paint roller, paint brush, paintbrush, tools, electric drill, drill, "
        "power drill, nail, screw, hammer drill, shovel rake, mallet, hammer and anvil, "
        "screwdriver wrench, wrench screwdriver, hammer screwdriver, hammer wrench, "
        "saw blade, circular saw, trowel, rake, tool"
    ),
    "tool, measuring": (
        "measuring tape, tape measure, ruler, ruler square, triangle ruler, caliper, ruler combined, tape measure one"
    ),
    "tool, cutting, office supply": ("scissors, scissor, scissors open, scissors cutting"),
    "electronics, electric meter, measuring device": (
        "circuit ammeter, circuit voltmeter, meter electric, electric meter, oscillator, gauge, "
        "electrical sensor, electricity"
    ),
    "building, wind power, energy": ("windmill, wind turbine, wind power, building wind turbine, dutch windmill"),
    "energy, sun, electricity": (
        "solar panel, solar power, solar energy, solar panel large, solar power battery, solar power variant"
    ),
    "building, river, water": "dam, water dam, hydro power, hydropower",
    "building": (
        "castle, church, mosque, pagoda, museum, palace, lighthouse, light house, building, "
        "building church, building castle, building lighthouse, building factory, "
        "building skyscraper, building hospital, building warehouse, building cottage, "
        "building mosque, building pavilion, building arch, building fortress, building bank, "
        "factory, hospital building, house, office building, building office, "
        "farm, barn, apartment, clock tower, great wall, city, temple hindu, temple buddhist, "
        "synagogue, watchtower castle, bigben, big ben, chinese pavilion, arc de triomphe, "
        "warehouse, greenhouse, hut, igloo, skyscraper, bridge, bridge one, bank"
    ),
    "building or monument": (
        "monument, landmark, eiffel tower, pyramid, tower of pisa, taj mahal, tower, obelisk, "
        "building monument, statue of liberty, pillar, building tunnel, landmark dome, archway, "
        "tower observation, vihara, gopuram, place of worship, torii gate"
    ),
    "fish, sea animal": "fish, fishes, fish simple, fish bone, fishbowl, jellyfish, shark",
    "sea animal": "whale, dolphin, crab, shrimp, lobster, octopus, jellyfish fish, otter",
    "insect": "butterfly, ladybug, bee, bug beetle, ant, mosquito, bug, fly",
    "arachnid, insect": "spider",
    "reptile": "snake, turtle, tortoise, lizard, crocodile, snake zodiac",
    "amphibian": "frog",
    "bird": (
        "bird, duck, owl, eagle, pigeon, penguin, crow, kiwi bird, dove, origami paper bird, chicken zodiac, rooster"
    ),
    "mammal": (
        "cat, dog, horse, cow, pig, sheep, elephant, lion, tiger, bear, rabbit, monkey, deer, "
        "koala bear, panda, cattle, hippo, bat, donkey, rodent, horse variant, dog side, "
        "pig variant, unicorn, fox, otter, mouse animal, squirrel, horse head, reindeer, "
        "horse zodiac, sheep zodiac, tiger zodiac, pig zodiac, dog zodiac, monkey zodiac, "
        "rabbit zodiac, cattle zodiac, mouse zodiac, hedgehog, kangaroo, camel"
    ),
}

STYLE_WORDS = {
    "flat",
    "fill",
    "filled",
    "duotone",
    "duo",
    "bold",
    "outline",
    "rounded",
    "thin",
    "light",
    "line",
    "sharp",
    "one",
    "two",
    "three",
    "four",
    "variant",
    "alt",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "13",
    "14",
    "simple",
}


@dataclass(frozen=True)
class Sample:
    """One image-text pair ready to be written."""

    key: str
    source: str
    image: bytes
    caption: str


def render(svg: str, quality: int) -> bytes | None:
    """Render an SVG on white as WebP; None where it is blank, animated or fails."""
    drawn = None if "<animate" in svg else rasterise(svg, SIZE)
    if drawn is None or is_blank(picture := on_white(drawn)):
        return None
    return encode(picture, quality)


def wanted_emoji(vendor: str, code: str, variant: str, entry: Emoji) -> bool:
    """Skip most variants of people, which would be half of the pairs."""
    if entry.subgroup == "family" or "200d-27a1" in code:
        return vendor == "twemoji" and "200d" not in code
    gendered = "200d" in code and entry.subgroup in PEOPLE
    if vendor == "twemoji":
        return True
    return not gendered and not (variant not in ("", "1") and entry.subgroup in PEOPLE)


def make_emoji(modules: Path, seed: int, quality: int) -> Iterator[Sample]:
    """Render the emoji of all vendors."""
    emoji = load_emoji(modules)
    names = name_table(modules, emoji)
    for vendor, pad in EMOJI_PAD.items():
        icons = read_json(modules / "@iconify" / "json" / "json" / f"{vendor}.json")
        seen: set[str] = set()
        for name, code, variant in emoji_codes(icons, names):
            entry = emoji.get(code)
            key = f"{vendor}-{code}" + (f"-v{variant}" if variant else "")
            if entry is None or key in seen or not wanted_emoji(vendor, code, variant, entry):
                continue
            seen.add(key)
            image = render(icon_svg(icons, name, pad, "#212121"), quality)
            if image is not None:
                caption = emoji_caption(entry, random.Random(f"{seed}:{key}"))
                yield Sample(key, vendor, image, caption)


def concept_table() -> dict[str, str]:
    """Map the base name of an icon to its category words."""
    return {name.strip(): words for words, names in CONCEPTS.items() for name in names.split(",")}


def base_name(name: str, table: dict[str, str]) -> str | None:
    """Drop style words from the end of an icon name until a concept is found."""
    parts = name.split("-")
    while parts:
        if " ".join(parts) in table:
            return " ".join(parts)
        if parts[-1] not in STYLE_WORDS:
            return None
        parts.pop()
    return None


def make_icons(modules: Path, seed: int, quality: int, styles: int) -> Iterator[Sample]:
    """Render the icons of the concepts, at most ``styles`` drawings per set and concept."""
    table = concept_table()
    colors = (
        "#212121",
        "#37474f",
        "#4e342e",
        "#1565c0",
        "#2e7d32",
        "#b71c1c",
        "#6a1b9a",
        "#e65100",
    )
    for prefix, pad in ICON_PAD.items():
        icons = read_json(modules / "@iconify" / "json" / "json" / f"{prefix}.json")
        counts: Counter[str] = Counter()
        # Filled styles first: they look more like the object than outlines.
        order = sorted(icons["icons"], key=lambda n: (not re.search("flat|fill|duo", n), n))
        for name in order:
            base = base_name(name, table)
            if base is None or icons["icons"][name].get("hidden") or counts[base] >= styles:
                continue
            key = f"{prefix}-{name}"
            rng = random.Random(f"{seed}:{key}")
            image = render(icon_svg(icons, name, pad, rng.choice(colors)), quality)
            if image is None:
                continue
            counts[base] += 1
            title = re.sub(r"^(building|tools) | (zodiac|side|variant|large)$", "", base)
            parts = [title] + [w for w in table[base].split(", ") if w != title]
            kept = parts if rng.random() < 0.8 else parts[:1]
            yield Sample(key, prefix, image, ", ".join(kept))


def pixels(data: bytes) -> Image.Image:
    """Decode an image to RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def digest(image: Image.Image) -> str:
    """Hash the decoded pixels."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def drop_copies(
    samples: list[Sample], base: Path, limit: float
) -> tuple[list[Sample], dict[str, list[tuple[str, str]]]]:
    """Drop exact copies of any image and near copies of evaluation images."""
    seen: dict[str, str] = {}
    thumbs: list[np.ndarray] = []
    eval_names: list[str] = []
    for path in sorted(base.glob("train/*.tar")):
        seen.update((digest(pixels(data)), name) for name, data in shard_images(path))
    for path in sorted(base.glob("eval/*/test/*.tar")):
        for name, data in shard_images(path):
            image = pixels(data)
            seen[digest(image)] = name
            thumbs.append(grey(image).astype(np.float32))
            eval_names.append(name)
    matrix = np.stack(thumbs)
    kept: list[Sample] = []
    dropped: dict[str, list[tuple[str, str]]] = {"exact": [], "near-eval": []}
    for sample in samples:
        image = pixels(sample.image)
        code = digest(image)
        distance = np.abs(matrix - grey(image)).mean(axis=1)
        # The same motif as an evaluation image counts as a copy from twice as far.
        motif = "-" + sample.key.removeprefix(sample.source).removeprefix("-") + ".webp"
        distance[[name.endswith(motif) for name in eval_names]] /= 2.0
        if code in seen:
            dropped["exact"].append((sample.key, seen[code]))
        elif distance.min() < limit:
            dropped["near-eval"].append((sample.key, eval_names[int(distance.argmin())]))
        else:
            seen[code] = sample.key
            kept.append(sample)
    return kept, dropped


def within_budget(samples: list[Sample], budget: int) -> list[Sample]:
    """Keep samples in order until their image bytes reach the budget."""
    total, kept = 0, []
    for sample in samples:
        total += len(sample.image)
        if total > budget:
            break
        kept.append(sample)
    return kept


def write_shards(samples: list[Sample], train: Path, size: int, seed: int) -> list[dict[str, Any]]:
    """Shuffle, split evenly and write; return the manifest rows of the new files."""
    order = sorted(samples, key=lambda sample: sample.key)
    random.Random(seed).shuffle(order)
    first = len(list(train.glob("*.tar")))
    count = max(1, round(len(order) / size))
    rows = []
    for index in range(count):
        part = order[index * len(order) // count : (index + 1) * len(order) // count]
        path = train / f"{first + index:05d}.tar"
        write_shard(path, [(sample.key, sample.image, sample.caption) for sample in part])
        rows.append(
            {
                "file": f"train/{path.name}",
                "samples": len(part),
                "bytes": path.stat().st_size,
                "sha256": hash_file(path),
            }
        )
    return rows


def update_manifest(folder: Path, samples: list[Sample], rows: list[dict[str, Any]]) -> None:
    """Add the new files and sources to the manifest."""
    path = folder / "manifest.json"
    manifest = read_json(path)
    manifest["train_samples"] += len(samples)
    manifest["train_sources"].update(Counter(sample.source for sample in samples))
    old_train = [row for row in manifest["files"] if row["file"].startswith("train/")]
    rest = manifest["files"][len(old_train) :]
    manifest["files"] = old_train + rows + rest
    manifest["total_bytes"] += sum(row["bytes"] for row in rows)
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.split("\n")[0])
    parser.add_argument("--base", type=Path, required=True, help="the embedded folder to extend")
    parser.add_argument("--node-modules", type=Path, required=True, help="folder with the npm packages")
    parser.add_argument("--output", type=Path, required=True, help="new folder to write")
    parser.add_argument("--licenses", type=Path, help="folder with LICENSES.md and licenses/ to copy")
    parser.add_argument("--quality", type=int, default=70, help="WebP quality")
    parser.add_argument("--budget", type=int, default=4_500_000, help="bytes of new images at most")
    parser.add_argument("--shard-size", type=int, default=1100, help="samples per shard, about")
    parser.add_argument("--styles", type=int, default=2, help="drawings per icon set and concept")
    parser.add_argument("--near", type=float, default=3.0, help="mean grey distance to eval images")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Copy the base folder and extend it."""
    args = parse_args()
    shutil.copytree(args.base, args.output, copy_function=shutil.copyfile)
    for path in [args.output, *args.output.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    # Icons come first: they are few and must not fall to the budget.
    samples = list(make_icons(args.node_modules, args.seed, args.quality, args.styles))
    samples += make_emoji(args.node_modules, args.seed, args.quality)
    samples, dropped = drop_copies(samples, args.base, args.near)
    rendered = len(samples)
    samples = within_budget(samples, args.budget)
    rows = write_shards(samples, args.output / "train", args.shard_size, args.seed)
    update_manifest(args.output, samples, rows)
    if args.licenses:
        shutil.copyfile(args.licenses / "LICENSES.md", args.output / "LICENSES.md")
        shutil.copytree(args.licenses / "licenses", args.output / "licenses")
    report = {
        "samples": len(samples),
        "image_bytes": sum(len(sample.image) for sample in samples),
        "sources": Counter(sample.source for sample in samples),
        "over_budget": rendered - len(samples),
        "dropped": dropped,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
