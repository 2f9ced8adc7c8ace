"""Regions of images through the stream: which one, where in the view it lies, and what bad ones do."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.documents import StartTokenizer
from tests.shards import image_bytes, write_shards
from vlp.curate.pack import pack
from vlp.curate.verify import verify_card
from vlp.data import Captions, Crop, SampleSet, Stream, Views
from vlp.data.faults import BadSampleError
from vlp.data.regions import Region, Regions, region_rows
from vlp.data.samples import Sample
from vlp.data.shards.cards import Card, load_card
from vlp.data.shards.shard import open_shards
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError

LEFT, RIGHT = ({"box": [x0, 0.25, x0 + 0.25, 0.75], "caption": name} for x0, name in ((0.0, "ab"), (0.5, "cd e")))


def members(number, regions):
    record = {"caption": f"whole {number}"} | ({} if regions is None else {"regions": regions})
    return [(f"{number:06d}.jpg", image_bytes(number)), (f"{number:06d}.json", json.dumps(record).encode())]


def write(folder, told):
    """Write a shard of samples with some regions each, and return its card."""
    write_shards(folder, 1, len(told), replace={n: members(n, regions) for n, regions in enumerate(told)})
    return Card(name="regions", shards="*.tar", captions={"json.caption": 1.0}, regions="json.regions", folder=folder)


@pytest.fixture
def sample(tmp_path):
    def open_one(regions):
        card = write(tmp_path / "one", [regions])
        return Sample.of_card(card, open_shards(card)[0], 0)

    return open_one


def draw(sample, cut=(0, 0, 24, 20, 0), number=0, **settings):
    row = np.array(cut, dtype=np.float32)
    return Regions(**settings)(sample, (24, 20), row, Captions(lower=True), Draws(0, number))


@pytest.mark.parametrize(
    ("cut", "box"),
    [
        ((0, 0, 24, 20, 0), (0.5, 0.25, 0.75, 0.75)),  # all of the picture
        ((0, 0, 24, 20, 1), (0.25, 0.25, 0.5, 0.75)),  # mirrored
        ((6, 5, 18, 15, 0), (0.5, 0.0, 1.0, 1.0)),  # twice as large
        ((9, 0, 21, 20, 1), (0.25, 0.25, 0.75, 0.75)),
        ((0, 0, 15, 20, 0), (0.8, 0.25, 1.0, 0.75)),  # half of it is left
        ((0, 0, 14, 20, 0), None),  # a third
        ((0, 0, 6, 20, 0), None),  # nothing
    ],
)
def test_a_box_follows_the_crop_and_its_mirror_image(sample, cut, box):
    found = draw(sample([{**RIGHT, "caption": "Cd  E"}]), cut)
    assert (found and found.box) == (box and pytest.approx(box))
    assert found is None or found.caption == "cd e"


def test_one_of_the_regions_in_sight_is_drawn_and_none_where_there_are_none(sample):
    both = sample([LEFT, RIGHT])
    assert {draw(both, number=n).caption for n in range(20)} == {"ab", "cd e"}
    assert {draw(both, (0, 0, 12, 20, 0), n).caption for n in range(20)} == {"ab"}
    assert draw(both, (0, 0, 14, 20, 0), 3, least_visible=0.3, key="json.regions") is not None
    assert draw(both, key="json.parts") is None and draw(sample([])) is None and draw(sample(None)) is None


@pytest.mark.parametrize(
    "regions",
    [
        "x", 3, [1], {"box": 3}, [{"box": [0, 0, 1, 1]}], [{**LEFT, "caption": " "}], [{**LEFT, "caption": ["a"]}],
        [{**LEFT, "caption": None}], [{**LEFT, "caption": 5}],
        *([{**LEFT, "box": box}] for box in (
            [0, 0, 1], [0, 0, 24, 20], [0.5, 0, 0.5, 1], [0.5, 0.5, 0.2, 1], [0, 0, "1", 1], "0011", [0, 0, 1, 1e999],
            [1, 0, 1.0005, 1], [0, -0.0008, 1, -0.0001], [0, 0, float("nan"), 1], [None, 0, 1, 1], [10**400, 0, 1, 1],
        )),
    ],
)  # fmt: skip
def test_what_is_no_region_is_a_fault_of_its_sample(sample, regions):
    with pytest.raises(BadSampleError) as bad:
        draw(sample(regions))
    assert bad.value.reason == "bad_region"
    assert "'json.regions': " in bad.value.detail and "a box has left, top" in bad.value.detail


def test_a_box_that_is_nothing_in_numbers_of_this_size_is_none(sample):
    assert draw(sample([{**LEFT, "box": [1e-300, 0, 2e-300, 1]}]), (7, 5, 18, 15, 1)) is None


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(RecipeError, match=r"data\.regions\.least_visible: 0\.0"):
        Regions(least_visible=0.0)
    with pytest.raises(RecipeError, match=r"regions.*'regions' is no key of a JSON member"):
        Card.from_mapping({"name": "x", "shards": "*.tar", "regions": "regions"}, Path("card.yaml"))


def test_rows_say_which_samples_have_none():
    rows = region_rows([Region((0, 0, 0.5, 1), "ab"), None], StartTokenizer())
    assert rows.tokens.tolist() == [[1, ord("a"), ord("b"), 2], [1, 2, 0, 0]] and rows.lengths.tolist() == [4, 0]
    assert rows.boxes.tolist() == [[0, 0, 0.5, 1], [0, 0, 0, 0]]


def stream_of(card, **settings):
    views = Views((Crop(8), Crop(8)), Captions(), regions=Regions(least_visible=0.4))
    return Stream(SampleSet({"regions": card}), views, StartTokenizer(), seed=1, **{"batch_size": 4, **settings})


def test_workers_and_processes_draw_the_same_and_bad_samples_are_replaced(tmp_path):
    told = [[LEFT, RIGHT], None, [RIGHT], [{**LEFT, "box": [0, 0, 2, 2]}], [LEFT], [LEFT, RIGHT], None, [RIGHT]]
    card = write(tmp_path / "many", told)
    stream = stream_of(card)
    alone = list(islice(stream.batches(0), 6))
    assert stream.faults.total == 3 and any(batch.regions.lengths.min() == 0 for batch in alone)
    assert len({len(set(batch.regions.boxes[:, 0].tolist())) for batch in alone}) > 1
    for one, other in zip(alone, islice(stream_of(card, workers=2).batches(0), 6), strict=True):
        assert_same(one.regions, other.regions)
    halves = [islice(stream_of(card, rank=rank, world_size=2).batches(0), 6) for rank in range(2)]
    for one, *parts in zip(alone, *halves, strict=True):
        assert torch.equal(one.ids, torch.cat([part.ids for part in parts]))
        for rank, part in enumerate(parts):
            assert_same(one.narrow(2 * rank, 2).regions, part.regions)


def assert_same(one, other):
    assert np.array_equal(one.boxes, other.boxes) and np.array_equal(one.lengths, other.lengths)
    for ours, theirs, length in zip(one.tokens, other.tokens, one.lengths, strict=True):
        assert np.array_equal(ours[:length], theirs[:length])


def test_a_folder_is_packed_with_its_regions_which_are_verified(tmp_path):
    for number, regions in enumerate(([LEFT], [RIGHT, LEFT], [{**LEFT, "box": [0, 0, 9, 9]}])):
        for name, data in members(number, regions):
            (tmp_path / "folder").mkdir(exist_ok=True)
            (tmp_path / "folder" / name).write_bytes(data)
    card = load_card(str(pack(tmp_path / "folder", tmp_path / "packed", workers=1).card))
    assert card.regions == "json.regions" and card.captions == {"json.caption": 1.0}
    (finding,) = verify_card(card, workers=1).findings
    assert finding.reason == "bad_region" and "000000002" in str(finding) and "shares of the image" in finding.detail
