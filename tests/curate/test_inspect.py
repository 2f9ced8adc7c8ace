"""The page says what the shards hold, shows the same images for the same seed, and loads nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.shards import image_bytes, write_shards
from vlp.curate.facts.measure import measure
from vlp.curate.inspect import inspect_card
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


@pytest.fixture
def page(card, tmp_path):
    return inspect_card(str(card), tmp_path / "out" / "page.html", workers=1).read_text()


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


def test_the_page_loads_nothing(page):
    assert not re.findall(r"""(?:src|href)=["'](?!data:)[^"']*["']|@import|url\(|<script|<link""", page)


def test_a_seed_draws_the_same_images(card, tmp_path, monkeypatch):
    monkeypatch.setattr("vlp.curate.inspect.SHOWN", 3)
    pages = [inspect_card(str(card), tmp_path / "p.html", seed=seed, workers=1).read_text() for seed in (0, 0, 1)]
    assert pages[0] == pages[1] != pages[2]


def test_numbers_are_those_of_the_samples(card):
    measured = measure(load_card(str(card)), workers=1)
    columns = measured.columns
    assert measured.samples == 12 and columns.ids.tolist() == [*range(7), *range(8, 12)]
    assert (columns.widths.max(), columns.heights.max()) == (60, 20)
    assert (columns.characters[6], columns.words[6], columns.words[4]) == (4, 1, 3)
    assert columns.caption_hashes[4] == columns.caption_hashes[5] and columns.image_hashes[4] == columns.image_hashes[0]
    assert measured.vocabulary["caption"] == 10 and measured.faults == {"missing_image": 1}


@pytest.mark.processes
def test_processes_agree(card, tmp_path):
    pages = [inspect_card(str(card), tmp_path / "p.html", workers=workers).read_text() for workers in (1, 2)]
    assert pages[0] == pages[1]


def test_a_card_without_a_usable_sample_is_refused(card, tmp_path):
    write_shards(tmp_path / "shards", 2, 1, replace={k: [(f"{k}.txt", b"x")] for k in range(2)})
    with pytest.raises(RecipeError, match="none of 2 samples can be used"):
        inspect_card(str(card), tmp_path / "p.html", workers=1)


def test_a_folder_is_no_page(card, tmp_path):
    with pytest.raises(RecipeError, match="a folder; name a file"):
        inspect_card(str(card), tmp_path, workers=1)


@pytest.mark.parametrize("values", [[3], [0, 0, 0], [1.5], [1, 10_000], list(range(100))])
@pytest.mark.parametrize("log", [False, True])
def test_every_distribution_can_be_drawn(values, log):
    counts = re.findall(r": ([\d,]+)</title></rect>", histogram("x", "", np.array(values), "ink", log=log))
    assert sum(int(count.replace(",", "")) for count in counts) == len(values)
