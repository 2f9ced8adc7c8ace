"""The scripts that write data sets."""

from __future__ import annotations

import json
import runpy
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.shards import write_shards
from vlp.curate.verify import verify_card
from vlp.data import Card
from vlp.data.shards.cards import load_card
from vlp.evaluators.base import load_task
from vlp.evaluators.dataset import open_set
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml

DATA = Path(__file__).parents[2] / "data"
PREPARE = DATA / "prepare"
CIRCLE = '<circle cx="12" cy="12" r="{}" fill="currentColor"/>'
SQUARE = '<path fill="currentColor" d="M{0} {0}h{1}v{1}h-{1}z"/>'


@pytest.fixture
def scripts(monkeypatch):
    """Let tests import the scripts as they import each other."""
    monkeypatch.syspath_prepend(str(PREPARE))


@pytest.fixture
def renderer(scripts):
    pytest.importorskip("resvg_py", reason="resvg_py renders the drawings; pip install resvg_py")
    import rendering

    return rendering


def icon_set(folder, prefix, icons, **more):
    """Write an icon set as the npm package has it."""
    info = {"name": prefix.title(), "author": {"name": "Ann"}, "license": {"spdx": "MIT"}, "tags": ["Has Padding"]}
    info |= more.pop("info", {})
    path = folder / "@iconify" / "json" / "json" / f"{prefix}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    bodies = {name: {"body": icon} if isinstance(icon, str) else icon for name, icon in icons.items()}
    path.write_text(json.dumps({"prefix": prefix, "info": info, "icons": bodies, "width": 24, "height": 24, **more}))


@pytest.fixture
def packages(tmp_path):
    """Write small packages that have one of everything that is left out."""
    folder = tmp_path / "packages"
    icon_set(folder, "house", {
        "sun": CIRCLE.format(10),
        "sun-fill": CIRCLE.format(11),
        "sun-outline": CIRCLE.format(9),
        "sun-duotone": CIRCLE.format(8),
        "old-sun": {"body": CIRCLE.format(7), "hidden": True},
        "github": CIRCLE.format(6),
        "nothing": "<g/>",
        "spinner": f'{CIRCLE.format(5)}<animate attributeName="r"/>',
        "box-2": SQUARE.format(4, 16),
        "a": SQUARE.format(3, 18),
    }, suffixes={"": "Regular", "fill": "Fill", "outline": "Outline", "duotone": "Duo"},
       categories={"Weather": ["sun", "sun-fill"]}, aliases={"star": {"parent": "sun"}})  # fmt: skip
    icon_set(
        folder, "shed", {"crate": SQUARE.format(4, 16), "tile": SQUARE.format(2, 20), "shape": SQUARE.format(6, 9)}
    )
    icon_set(folder, "temaki", {"tent": SQUARE.format(6, 9), "well": CIRCLE.format(3)})
    icon_set(folder, "closed", {"door": SQUARE.format(1, 2)}, info={"license": {"spdx": "CC-BY-NC-4.0"}})
    icon_set(folder, "marks", {"firm": SQUARE.format(1, 2)}, info={"category": "Logos"})
    faces = {"1F600": "grinning-face", "1F44B-1F3FB": "waving-hand-light-skin-tone"}
    for vendor in ("noto", "twemoji"):
        drawn = {name: CIRCLE.format(4 + place) for place, name in enumerate(faces.values())}
        icon_set(folder, vendor, drawn, chars={code.lower(): name for code, name in faces.items()})
    emojibase = folder / "emojibase-data"
    for name, content in {
        emojibase / "en" / "data.json": [
            {"hexcode": "1F600", "label": "grinning face", "emoji": "x", "subgroup": 0, "tags": ["smile", "grin"]}
        ],
        emojibase / "meta" / "groups.json": {"subgroups": {"0": "face-smiling"}},
        emojibase / "meta" / "unicode-names.json": {},
        folder / "emojilib" / "dist" / "emoji-en-US.json": {"x": ["happy"]},
        **{folder / name / "package.json": {"version": "1.2.3"} for name in (
            "@iconify/json", "emojibase-data", "emojilib"
        )},
    }.items():  # fmt: skip
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text(json.dumps(content))
    art = folder / "openclipart-svg" / "usr" / "share" / "openclipart" / "svg" / "animals" / "dogs"
    art.mkdir(parents=True)
    for name in ("big_dog", "the_same"):
        (art / f"{name}.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg">{SQUARE.format(100, 50)}</svg>')
    return folder


def build(packages, to, *sources, workers=1):
    import icons

    return icons.build(to, packages, sources, workers)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".work" not in path.parts and path.parent.name != "heldout"
    }


def captions(folder):
    with tarfile.open(folder / "train" / "000000.tar") as tar:
        texts = [member for member in tar if member.name.endswith(".txt")]
        return {member.name.removesuffix(".txt"): tar.extractfile(member).read().decode() for member in texts}


def test_a_card_is_filled_in_and_keeps_what_it_said(tmp_path):
    write_shards(tmp_path / "shards", 2, 3)
    path = tmp_path / "x.yaml"
    path.write_text("# why this set\nname: x\nshards: shards/*.tar\nsamples: 99\nlicence: CC0-1.0\n")
    fill_in = runpy.run_path(str(PREPARE / "card.py"))["fill_in"]
    fill_in(path)
    card = Card.from_mapping(read_yaml(path), path)
    assert card.samples == 6 and list(card.sha256) == ["shards/00000.tar", "shards/00001.tar"]
    assert card.licence == "CC0-1.0" and path.read_text().startswith("# why this set\n")
    card.verify()
    before = path.read_text()
    fill_in(path)
    assert path.read_text() == before


@pytest.mark.parametrize("name", ["embedded/photos/00000.tar", "embedded/train/00007.tar"])
def test_the_shard_writer_writes_the_bytes_that_shipped(name, scripts, tmp_path):
    from shards import write_shard

    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(DATA / name) as tar:
        for member in tar:
            key, kind = member.name.split(".")
            samples.setdefault(key, {})[kind] = tar.extractfile(member).read()
    parts = [(key, members["webp"], members["txt"].decode()) for key, members in samples.items()]
    write_shard(tmp_path / "again.tar", parts)
    assert (tmp_path / "again.tar").read_bytes() == (DATA / name).read_bytes()


def test_two_builds_are_equal_whatever_the_number_of_processes(renderer, packages, tmp_path):
    build(packages, tmp_path / "a", workers=1)
    build(packages, tmp_path / "b", workers=2)
    first, second = content(tmp_path / "a"), content(tmp_path / "b")
    assert len(first) == 7 and first == second
    verdict = verify_card(load_card(str(tmp_path / "a" / "icons.yaml")), workers=1)
    assert verdict.samples == 7 and not verdict.findings


def test_only_wanted_drawings_are_taken_and_the_manifest_says_why(renderer, packages, tmp_path):
    build(packages, tmp_path / "a")
    found = captions(tmp_path / "a")
    assert {found.pop(f"{vendor}_1f600").partition(",")[0] for vendor in ("noto", "twemoji")} == {"grinning face"}
    assert {key[:3]: found.pop(key) for key in list(found) if key.startswith("oc-")} == {
        "oc-": "big dog, animals, dogs"
    }
    assert found == {
        "house_sun": "sun, weather, star",
        "house_sun-fill": "sun, weather",
        "house_box-2": "box",
        "shed_tile": "tile",
    }
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["training"]["house"]["dropped"] == {
        "animated": 1, "blank": 1, "hidden": 1, "logo": 1, "no name": 1, "style": 2,
    }  # fmt: skip
    assert manifest["training"]["shed"]["dropped"] == {"near an evaluated picture": 1, "same pixels": 1}
    assert manifest["training"]["openclipart"]["dropped"] == {"same file": 1}
    assert manifest["left_out"] == {"closed": "licence CC-BY-NC-4.0", "marks": "logos"}
    for source in [*manifest["training"].values(), *manifest["heldout"].values()]:
        assert source["drawings"] == source["kept"] + sum(source["dropped"].values())
    licences = (tmp_path / "a" / "LICENSES.md").read_text()
    assert "| house | 3 | House | Ann | [MIT]" in licences and "closed" not in licences


def test_a_held_out_set_is_a_task_and_is_not_trained_on(renderer, packages, tmp_path):
    build(packages, tmp_path / "a", "house", "temaki")
    assert not any(key.startswith("temaki_") for key in captions(tmp_path / "a"))
    task = load_task(str(tmp_path / "a" / "heldout" / "temaki.yaml"))
    data = open_set(task.data)
    assert len(data.samples) == 2 and [list(texts) for texts in data.captions] == [["tent"], ["well"]]


def test_what_was_rendered_is_not_rendered_again(renderer, packages, tmp_path):
    build(packages, tmp_path / "a", "house")
    with sqlite3.connect(tmp_path / "a" / ".work" / "renders.sqlite") as store:
        before = store.execute("SELECT count(*), max(rowid) FROM pictures").fetchone()
        store.execute("UPDATE pictures SET image = (SELECT image FROM pictures WHERE fault = '' LIMIT 1)")
    store.close()
    first = content(tmp_path / "a")
    build(packages, tmp_path / "a", "house")
    with sqlite3.connect(tmp_path / "a" / ".work" / "renders.sqlite") as store:
        assert store.execute("SELECT count(*), max(rowid) FROM pictures").fetchone() == before
    store.close()
    assert content(tmp_path / "a").keys() == first.keys()
    assert content(tmp_path / "a")["train/000000.tar"] != first["train/000000.tar"]


def test_what_did_not_come_to_an_end_is_tried_again(renderer, packages, tmp_path):
    build(packages, tmp_path / "a", "house")
    first = content(tmp_path / "a")
    with sqlite3.connect(tmp_path / "a" / ".work" / "renders.sqlite") as store:
        store.execute("UPDATE pictures SET image = x'', fault = 'crash' WHERE fault = ''")
    store.close()
    build(packages, tmp_path / "a", "house")
    assert content(tmp_path / "a") == first


def test_a_mistake_is_explained(renderer, packages, tmp_path):
    command = [sys.executable, str(PREPARE / "icons.py"), str(tmp_path / "a"), "--packages", str(packages)]
    result = subprocess.run([*command, "--sources", "hous"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 1 and result.stderr == "--sources hous: no such set; did you mean 'house'?\n"


def test_a_folder_of_something_else_is_left_alone(renderer, packages, tmp_path):
    (tmp_path / "a" / "train").mkdir(parents=True)
    (tmp_path / "a" / "train" / "mine.tar").write_text("mine")
    with pytest.raises(RecipeError, match="not written by this script; choose a new folder"):
        build(packages, tmp_path / "a")
    assert (tmp_path / "a" / "train" / "mine.tar").read_text() == "mine"


def test_two_builds_do_not_share_a_folder(renderer, packages, tmp_path):
    import icons

    with icons.claimed(tmp_path / "a"), pytest.raises(RecipeError, match="another build is writing into it"):
        build(packages, tmp_path / "a")


def test_a_package_that_cannot_be_fetched_names_a_way_out(renderer, packages, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match=r"npm is not installed; install it, or unpack @iconify/json into .*/none/"):
        build(tmp_path / "none", tmp_path / "a", "house")


def svg(body):
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="96" height="96" viewBox="0 0 24 24">{body}</svg>'


def test_a_drawing_that_crashes_or_hangs_takes_nobody_along(renderer, monkeypatch):
    endless = '<filter id="f"><feTurbulence baseFrequency="5" numOctaves="100000000"/></filter>'
    bodies = [
        "<g>" * 100_000 + CIRCLE.format(9) + "</g>" * 100_000,
        CIRCLE.format(9),
        f'{endless}<rect width="24" height="24" filter="url(#f)"/>',
        CIRCLE.format(8),
    ]
    monkeypatch.setattr(renderer, "SECONDS", 1.0)
    pictures = renderer.draw_all([renderer.Drawing(str(body[:9]), "x", "x", svg(body)) for body in bodies])
    assert [picture.fault for picture in pictures] == ["crash", "", "timeout", ""]


def test_colours_do_not_make_another_drawing_of_a_one_colour_icon(renderer):
    red, blue = (svg(f'<g color="{colour}">{CIRCLE.format(9)}</g>') for colour in ("#b71c1c", "#1565c0"))
    shapes = [renderer.draw(renderer.Drawing("x", "x", "x", body, one_colour=True)) for body in (red, blue)]
    assert shapes[0].pixels == shapes[1].pixels and shapes[0].image != shapes[1].image
    pictures = [renderer.draw(renderer.Drawing("x", "x", "x", body)) for body in (red, blue)]
    assert pictures[0].pixels != pictures[1].pixels


def test_margins_of_clip_art_are_cut_off(renderer):
    small = renderer.Drawing("x", "x", "x", svg('<path d="M1 1h2v4h-2z"/>'), crop=True)
    grey = np.frombuffer(renderer.draw(small).thumb, dtype=np.uint8).reshape(16, 16)
    assert grey[8, 8] == 0 and grey[1, 8] < 5 and grey[8, 1] == 255


@pytest.mark.parametrize(("name", "is_one"), [
    ("github", True), ("brand-x", True), ("facebook-circle", True), ("x-logo", True), ("apple", True),
    ("apple-1", True), ("apple-pie", False), ("windows-blinds", False), ("house", False), ("link", False),
])  # fmt: skip
def test_brands_are_told_from_things(name, is_one, renderer):
    from selection import is_brand

    assert is_brand(name) is is_one


def test_distances_are_those_of_a_slow_loop(renderer):
    from copies import distances

    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 256, (count, 256), dtype=np.uint8) for count in (5, 7))
    slow = [min(np.sqrt(np.mean((a.astype(float) - b) ** 2)) for b in right.astype(float)) for a in left]
    assert distances([row.tobytes() for row in left], right) == pytest.approx(slow, abs=1e-9)


def test_documents_are_made_of_pairs_that_share_a_tag(tmp_path):
    run = runpy.run_path(str(PREPARE / "embedded_documents.py"))
    groups = run["groups_of"](["embedded-photos"])
    documents = [(tag, samples) for tag, found in groups.items() for samples in run["documents_of"](tag, found)]
    assert len(documents) > 30 and all(2 <= len(samples) <= 5 for _, samples in documents)
    assert all(run["tags_of"](sample)[1] == tag for tag, samples in documents for sample in samples)
    run["write"](tmp_path, 7, *documents[0])
    record = json.loads((tmp_path / "00007.json").read_text())
    assert len(record["texts"]) == len(record["images"]) and record["texts"][0].startswith("Pictures of ")
    names = [name for name in record["images"] if name]
    assert [(tmp_path / name).read_bytes() for name in names] == [sample.read_image() for sample in documents[0][1]]
