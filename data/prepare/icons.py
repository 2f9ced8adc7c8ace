"""Build a data set of more than a hundred thousand drawings with names and tags: icons, emoji and clip art.

python data/prepare/icons.py /datasets/icons
python data/prepare/icons.py small --sources lucide noto temaki             (some of the sets, to try it)

The drawings come from npm `@iconify/json`, the names of emoji from npm `emojibase-data` and `emojilib`, clip art from
Debian's `openclipart-svg`. They are fetched with `npm pack` and `apt-get download`, or found in a folder that somebody
unpacked them into: --packages FOLDER with FOLDER/@iconify/json, FOLDER/emojibase-data, FOLDER/emojilib (a
`node_modules` does) and FOLDER/openclipart-svg.

It writes, into the folder:

    icons.yaml            card of the training set
    train/*.tar           96 px WebP with captions "name, tag, tag"
    heldout/NAME          retrieval sets of vendors that are never trained on, each with a task NAME.yaml
    manifest.json         what was taken of each set, what was left out and why, versions, checksums
    LICENSES.md           whom to name, and under which licences; it must travel with copies
    .work                 packages and rendered drawings: an interrupted build goes on from it; may be deleted

Only sets under permissive licences are trained on (`ALLOWED` in iconify.py), no logos, no skin tones, at most two
styles of a drawing. The same packages and versions of resvg_py and Pillow give the same bytes.

Needs ``resvg_py`` (PyPI), and npm and apt-get for what is not unpacked.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

import openclipart
from copies import drop_copies, grey_values
from emoji_drawings import VENDORS, Emoji
from iconify import HELD_OUT_EMOJI, HELD_OUT_ICONS, IconSet, digest, why_left_out
from manifest import Source, write_licences, write_manifest
from packages import debian_version, fetch_debian, fetch_npm, npm_version
from rendering import SIZE, VERSIONS, Drawing, Picture, grey
from renders import Renders
from selection import Selection
from shards import hash_file, shard_images, write_shard
from vlp.curate.sources.writer import ShardWriter, Written
from vlp.ground.cores import usable_cores
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError
from vlp.ground.yaml import write_yaml

WORK = ".work"
SHIPPED = Path(__file__).parents[1] / "embedded" / "eval"
NPM = ("@iconify/json", "emojibase-data", "emojilib")
PER_SHARD = 5000
MOST_EVALUATED = 1000  # pictures of a held-out set
CANDIDATES = 1300  # of them that are rendered: some are blank, or equal to others
NEAR = 6.0  # of 255: copies of one drawing in two sets are 0 to 4 apart, different one-colour drawings 20 and more


@dataclass
class Inventory:
    """All drawings before they are rendered.

    Args:
        evaluation: Those of held-out sets, by set.
        left_out: Sets that are not taken at all, with the reason.
    """

    training: list[Drawing] = field(default_factory=list)
    evaluation: dict[str, list[Drawing]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    held_out: dict[str, Source] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: dict(VERSIONS))


def gather(packages: Path, wanted: Sequence[str]) -> Inventory:
    """Choose the drawings of all sets, or of the named ones.

    Raises:
        RecipeError: There is no such set, or a package cannot be fetched.
    """
    inventory = Inventory()
    if set(wanted) != {openclipart.NAME}:
        add_icons(inventory, packages, wanted)
    if not wanted or openclipart.NAME in wanted:
        add_clip_art(inventory, fetch_debian(packages))
    return inventory


def add_icons(inventory: Inventory, packages: Path, wanted: Sequence[str]) -> None:
    """Add icons and emoji; sets with colours of their own come first in their families."""
    folders = {name: fetch_npm(packages, name) for name in NPM}
    inventory.versions |= {name: npm_version(folder) for name, folder in folders.items()}
    paths = {path.stem: path for path in (folders["@iconify/json"] / "json").glob("*.json")}
    for name in wanted:
        if name not in (*paths, openclipart.NAME):
            raise RecipeError(f"--sources {name}: no such set{nearest(name, [*paths, openclipart.NAME])}")
    sets = [IconSet.read(path) for name, path in paths.items() if name in (wanted or paths)]
    emoji, selection = Emoji(packages), Selection()
    for icons in sorted(sets, key=lambda icons: (not icons.coloured, icons.prefix)):
        name, source = icons.prefix, Source.of(icons)
        if name in (*HELD_OUT_EMOJI, *HELD_OUT_ICONS):
            inventory.held_out[name] = source
            inventory.evaluation[name] = candidates(emoji if name in HELD_OUT_EMOJI else selection, icons, source)
        elif reason := why_left_out(icons):
            inventory.left_out[name] = reason
        else:
            inventory.sources[name] = source
            choose = emoji.drawings if name in VENDORS else selection.drawings
            inventory.training += choose(icons, source.dropped)


def candidates(chooser: Emoji | Selection, icons: IconSet, source: Source) -> list[Drawing]:
    """Return some drawings of a held-out set that differ in name."""
    drawings = list(chooser.drawings(icons, source.dropped, with_tags=False))
    named = {drawing.caption: drawing for drawing in sorted(drawings, key=lambda drawing: digest(drawing.key))}
    source.dropped["same name"] += len(drawings) - len(named)
    source.dropped["enough"] += max(len(named) - CANDIDATES, 0)
    return list(named.values())[:CANDIDATES]


def add_clip_art(inventory: Inventory, package: Path) -> None:
    """Add clip art but for the pictures that the shipped evaluation sets have."""
    version = debian_version(package)
    inventory.versions[package.name] = version
    source = openclipart.source(package, version)
    inventory.sources[openclipart.NAME] = source
    shipped = {Path(name).stem for name, _ in shipped_pictures()}
    inventory.training += openclipart.drawings(package, shipped, source.dropped)


def shipped_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield the pictures of the evaluation sets that ship with the project."""
    for path in sorted(SHIPPED.glob("*/test/*.tar")):
        yield from shard_images(path)


def choose_evaluated(drawings: Sequence[Drawing], pictures: Mapping[str, Picture], source: Source) -> list[Drawing]:
    """Choose drawings of a held-out set that differ in pixels."""
    pixels: set[bytes] = set()
    chosen: list[Drawing] = []
    for drawing in drawings:
        picture = pictures[drawing.key]
        if picture.fault:
            source.dropped[picture.fault] += 1
        elif picture.pixels in pixels:
            source.dropped["same pixels"] += 1
        elif len(chosen) == MOST_EVALUATED:
            source.dropped["enough"] += 1
        else:
            pixels.add(picture.pixels)
            chosen.append(drawing)
    source.kept = len(chosen)
    return chosen


def write_training(to: Path, drawings: Sequence[Drawing], pictures: Mapping[str, Picture]) -> list[Written]:
    """Write the shards of the training set, in an order that mixes the sources."""
    folder = to / "train"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    order = sorted(drawings, key=lambda drawing: digest(drawing.key))
    written = []
    for number, start in enumerate(range(0, len(order), PER_SHARD)):
        with ShardWriter(folder, f"{number:06d}", max_bytes=1 << 40) as writer:
            for drawing in order[start : start + PER_SHARD]:
                members = {"txt": drawing.caption.encode(), "webp": pictures[drawing.key].image}
                writer.write(drawing.key, members)
        written += writer.written
    return written


def write_evaluation(to: Path, name: str, drawings: Sequence[Drawing], pictures: Mapping[str, Picture]) -> None:
    """Write a retrieval set and its task."""
    folder = to / name
    (folder / "test").mkdir(parents=True)
    shard = folder / "test" / "0.tar"
    samples = sorted(drawings, key=lambda drawing: drawing.key)
    write_shard(shard, ((drawing.key, pictures[drawing.key].image, drawing.caption) for drawing in samples))
    (folder / "test" / "nshards.txt").write_text("1\n", encoding="utf-8")
    (folder / "dataset_type.txt").write_text("retrieval\n", encoding="utf-8")
    data = {"root": str(folder.resolve()), "samples": len(samples), "captions": len(samples)}
    task = {"version": 1, "evaluator": "retrieval", "main_metric": "mean_recall@1"}
    task["data"] = {**data, "sha256": {"test/0.tar": hash_file(shard)}}
    (to / f"{name}.yaml").write_text(write_yaml(task), encoding="utf-8")


def write_card(to: Path, shards: Sequence[Written], licences: Sequence[str]) -> Path:
    """Write the card of the training set."""
    card = {
        "name": "icons",
        "shards": "train/*.tar",
        "samples": sum(shard.samples for shard in shards),
        "captions": {"txt": 1.0},
        "sha256": {f"train/{shard.name}": shard.sha256 for shard in shards},
        "licence": f"{', '.join(licences)}, per set; see LICENSES.md, which must travel with copies",
        "home": "https://icon-sets.iconify.design and https://openclipart.org",
    }
    path = to / "icons.yaml"
    path.write_text(write_yaml(card), encoding="utf-8")
    return path


@contextlib.contextmanager
def claimed(to: Path) -> Iterator[None]:
    """Own the folder: nobody else builds in it, and nothing else is in it.

    Raises:
        RecipeError: Somebody does, or something is.
    """
    if to.exists() and not (to / WORK).is_dir() and any(to.iterdir()):
        raise RecipeError(f"{to}: not empty, and not written by this script; choose a new folder")
    (to / WORK).mkdir(parents=True, exist_ok=True)
    with (to / WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecipeError(f"{to}: another build is writing into it; wait for it or stop it") from error
        yield


def build(to: Path, packages: Path, wanted: Sequence[str], workers: int) -> dict[str, Any]:
    """Build the data set, and return what there is to tell about it.

    Raises:
        RecipeError: A mistake in the arguments, or a package cannot be fetched.
    """
    with claimed(to):
        return _build(to, gather(packages, wanted), workers)


def _build(to: Path, inventory: Inventory, workers: int) -> dict[str, Any]:
    everything = [*inventory.training, *(drawing for part in inventory.evaluation.values() for drawing in part)]
    with contextlib.closing(Renders(to / WORK / "renders.sqlite")) as renders:
        renders.fill(everything, workers)
        pictures = {drawing.key: renders[drawing] for drawing in everything}
    evaluated = {
        name: choose_evaluated(drawings, pictures, inventory.held_out[name])
        for name, drawings in inventory.evaluation.items()
    }
    thumbs = [grey(Image.open(io.BytesIO(data))).tobytes() for _, data in shipped_pictures()]
    thumbs += [pictures[drawing.key].thumb for part in evaluated.values() for drawing in part]
    dropped = {name: source.dropped for name, source in inventory.sources.items()}
    kept = drop_copies(inventory.training, pictures, grey_values(thumbs), NEAR, dropped)
    for drawing in kept:
        inventory.sources[drawing.source].kept += 1
    shutil.rmtree(to / "heldout", ignore_errors=True)
    for name, drawings in evaluated.items():
        write_evaluation(to / "heldout", name, drawings, pictures)
    return report(to, inventory, write_training(to, kept, pictures), kept)


def report(to: Path, inventory: Inventory, shards: Sequence[Written], kept: Sequence[Drawing]) -> dict[str, Any]:
    """Write card, manifest and licences."""
    licences = sorted({source.licence for source in inventory.sources.values() if source.kept})
    about = {
        "image": f"{SIZE} px WebP",
        "pairs": len(kept),
        "captions": len({drawing.caption for drawing in kept}),
        "names": len({drawing.caption.partition(",")[0] for drawing in kept}),
        "sets": sum(source.kept > 0 for source in inventory.sources.values()),
        "licences": licences,
        "bytes": sum(shard.bytes for shard in shards),
        "versions": inventory.versions,
        "left_out": dict(sorted(inventory.left_out.items())),
    }
    parts = {"training": inventory.sources, "heldout": inventory.held_out}
    write_manifest(to / "manifest.json", about, parts)
    write_licences(to / "LICENSES.md", parts, [f"{name} {version}" for name, version in inventory.versions.items()])
    return {"card": write_card(to, shards, licences), **about}


def main() -> None:
    """Build the data set."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("to", type=Path, help="folder to write")
    parser.add_argument("--sources", nargs="+", default=[], help="names of sets, or openclipart; default: all")
    parser.add_argument("--packages", type=Path, help="folder with unpacked packages; default: fetch into the folder")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes; default: all cores")
    given = parser.parse_args()
    try:
        told = build(given.to, given.packages or given.to / WORK / "packages", given.sources, given.workers)
    except RecipeError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where it stopped")
    print(f"{told['pairs']:,} pairs of {told['sets']} sets with {told['captions']:,} captions, {told['names']:,} names")
    print(f"in a recipe: 'data.train={{icons: {{card: {told['card']}}}}}'")


if __name__ == "__main__":
    main()
