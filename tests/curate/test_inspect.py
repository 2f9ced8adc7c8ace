"""The page says what the shards hold, shows the same images for the same seed, and loads nothing."""

from __future__ import annotations

import io
import json
import re
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.shards import image_bytes, png_header, write_shards, write_tar
from vlp.curate.facts.fact_files import FactFiles
from vlp.curate.facts.facts import CAPTION, HEADER, IMAGE, LENGTH
from vlp.curate.filter import filter_card
from vlp.curate.inspect import inspect_card
from vlp.curate.inspect_facts import Inspected, inspect_samples
from vlp.data import SampleSet
from vlp.data.pixels.decode import FORMATS
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError
from vlp.ground.yaml import write_yaml
from vlp.html.histogram import histogram


@pytest.fixture
def card(tmp_path):
    twin = image_bytes(0)
    replace = {
        4: [("000004.jpg", twin), ("000004.txt", b"a <b>bold</b> caption")],
        5: [("000005.jpg", twin), ("000005.txt", b"A <b>bold</b> caption")],
        6: [("000006.jpg", image_bytes(6, "jpg", 60, 20)), ("000006.txt", b"wide")],
        7: [("000007.txt", b"no image")],
    }
    write_shards(tmp_path / "shards", 2, 6, replace=replace)
    path = tmp_path / "mine.yaml"
    path.write_text(write_yaml({"name": "mine", "shards": "shards/*.tar", "licence": "CC-BY-4.0 & more"}))
    return path


def numbers_of(card) -> Inspected:
    opened = load_card(str(card))
    return inspect_samples(SampleSet({opened.name: opened}), FactFiles(opened, card.parent / ".measured"), workers=1)


@pytest.fixture
def page(card, tmp_path):
    return inspect_card(load_card(str(card)), tmp_path / "out" / "page.html", workers=1).read_text()


def test_the_page_shows_what_is_there(page):
    assert "CC-BY-4.0 &amp; more" in page
    assert page.count("data:image/webp;base64,") == 11 + 1  # every usable sample, and one for those that are equal
    assert "a &lt;b&gt;bold&lt;/b&gt; caption" in page and "<b>bold" not in page
    assert '<tr><td>a &lt;b&gt;bold&lt;/b&gt; caption</td><td class="n">2</td></tr>' in page
    assert "2 images repeat another" in page and "<b>3 times</b>" in page
    assert '<tr><td>missing_image</td><td class="n">1</td></tr>' in page
    assert '<tr><td>24 x 20</td><td class="n">10</td></tr>' in page
    for title in ("Characters", "Words", "Shorter side", "Aspect", "File size", "File types", "Most common words"):
        assert f">{title}<" in page


class Tags(HTMLParser):
    """Names of all tags and of all their attributes."""

    def __init__(self):
        super().__init__()
        self.names, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_words_of_strangers_stay_words(tmp_path):
    """Whatever a card, a file name or a caption says, no tag and no attribute comes of it."""
    hostile = "<script>alert('x')</script>\" onload=\"alert(1)"
    members = [(f"<b onclick='y'>{k}.jpg", image_bytes(0)) for k in range(2)]
    members += [(f"<b onclick='y'>{k}.json", json.dumps({hostile: hostile}).encode()) for k in range(2)]
    write_tar(tmp_path / "0.tar", sorted(members))
    settings = {"captions": {f"json.{hostile}": 1.0}, "licence": hostile, "home": f"https://x.org/{hostile}"}
    (tmp_path / "mine.yaml").write_text(write_yaml({"name": hostile, "shards": "*.tar", **settings}))
    page = inspect_card(load_card(str(tmp_path / "mine.yaml")), tmp_path / "p.html", workers=1).read_text()
    assert page.count(escape(hostile)) >= 8 and "onclick=&#x27;y&#x27;" in page
    tags = Tags()
    tags.feed(page)
    assert "figcaption" in tags.names and "script" not in tags.names
    assert [name for name in tags.attributes if name.startswith("on")] == []


def test_the_page_loads_nothing(page):
    assert not re.findall(r"""(?:src|href)=["'](?!data:)[^"']*["']|@import|url\(|<script|<link""", page)


def test_a_seed_draws_the_same_images(card, tmp_path, monkeypatch):
    monkeypatch.setattr("vlp.curate.inspect.SHOWN", 3)
    pages = [
        inspect_card(load_card(str(card)), tmp_path / "p.html", seed=seed, workers=1).read_text() for seed in (0, 0, 1)
    ]
    assert pages[0] == pages[1] != pages[2]


def test_numbers_are_those_of_the_samples(card):
    found = numbers_of(card)
    assert found.samples == 12 and found.ids.tolist() == [*range(7), *range(8, 12)]
    assert found.of(HEADER)["size"].max(0).tolist() == [60, 20]
    assert found.of(LENGTH)[6].tolist() == (4, 1) and found.of(LENGTH)["pieces"][4] == 3
    assert found.of(CAPTION)[4] == found.of(CAPTION)[5] and found.of(IMAGE)[4] == found.of(IMAGE)[0]
    assert found.vocabulary["caption"] == 10 and found.faults == {"missing_image": 1}


def photo_of_a_phone() -> bytes:
    """Return a JPEG that holds a second picture, as phones write them."""
    first, second = (Image.new("RGB", (60, 20), color) for color in ("red", "blue"))
    file = io.BytesIO()
    first.save(file, "MPO", save_all=True, append_images=[second])
    return file.getvalue()


def test_an_image_counts_where_training_uses_it(card, tmp_path):
    """A photograph of two pictures is a JPEG; what training refuses by its header is left out."""
    replace = {
        1: [("000001.jpg", photo_of_a_phone()), ("000001.txt", b"two eyes")],
        2: [("000002.png", png_header(8193, 8192)), ("000002.txt", b"far too large")],
    }
    write_shards(tmp_path / "shards", 2, 6, replace=replace)
    found = numbers_of(card)
    assert found.faults == {"oversized_image": 1} and found.ids.tolist() == [0, 1, *range(3, 12)]
    size, kind, num_bytes = found.of(HEADER)[1]
    assert (*size, FORMATS[kind], num_bytes) == (60, 20, "JPEG", len(photo_of_a_phone()))


def columns_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}


def test_a_page_leaves_nothing_beside_it(card, tmp_path, page):
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["page.html"]


def test_what_a_filter_measured_is_not_measured_again(card, tmp_path, page):
    """Beside a filter's results a page takes what is there, and adds what is not, for the next page or filter."""
    (tmp_path / "rules.yaml").write_text("size: {short_side_over: 1}\nimages_per_caption: {}\n")
    filter_card(load_card(str(card)), tmp_path / "out" / "kept.yaml", tmp_path / "rules.yaml", workers=1)
    before = columns_of(tmp_path / "out")
    pages = []
    for _ in range(2):
        pages.append(inspect_card(load_card(str(card)), tmp_path / "out" / "page.html", workers=1).read_text())
        after = columns_of(tmp_path / "out")
        assert before.items() < after.items() and len(after) == len(before) + 2 * 2  # image and length of two shards
    assert pages == [page, page]


def test_the_samples_of_a_filtered_card_are_measured_alone(card, tmp_path):
    (tmp_path / "rules.yaml").write_text("length: {fewest: 2, most: 5}\n")
    kept = filter_card(load_card(str(card)), tmp_path / "kept.yaml", tmp_path / "rules.yaml", workers=1).card
    before = columns_of(tmp_path / ".measured")
    found = numbers_of(kept)
    assert columns_of(tmp_path / ".measured") == before
    assert found.samples == 3 and found.ids.tolist() == [0, 1] and found.faults == {"missing_image": 1}
    assert found.of(LENGTH)["pieces"].tolist() == [3, 3]


@pytest.mark.processes
def test_processes_agree(card, tmp_path):
    pages = [inspect_card(load_card(str(card)), tmp_path / "p.html", workers=workers).read_text() for workers in (1, 2)]
    assert pages[0] == pages[1]


def test_a_card_without_a_usable_sample_is_refused(card, tmp_path):
    write_shards(tmp_path / "shards", 2, 1, replace={k: [(f"{k}.txt", b"x")] for k in range(2)})
    with pytest.raises(RecipeError, match="none of 2 samples can be used"):
        inspect_card(load_card(str(card)), tmp_path / "p.html", workers=1)


def test_a_folder_is_no_page(card, tmp_path):
    with pytest.raises(RecipeError, match="a folder; name a file"):
        inspect_card(load_card(str(card)), tmp_path, workers=1)


@pytest.mark.parametrize("values", [[3], [0, 0, 0], [1.5], [1, 10_000], list(range(100))])
@pytest.mark.parametrize("log", [False, True])
def test_every_distribution_can_be_drawn(values, log):
    counts = re.findall(r": ([\d,]+)</title></rect>", histogram("x", "", np.array(values), "ink", log=log))
    assert sum(int(count.replace(",", "")) for count in counts) == len(values)
