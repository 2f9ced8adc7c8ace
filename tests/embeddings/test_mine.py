"""`vlp mine` finds what brute force finds, whoever shares the work and wherever it stops."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.embeddings.test_embed import write_card
from tests.processes import run_processes
from tests.shards import sample_members, write_shards
from vlp.cli import main
from vlp.data.mined_captions import ABOUT, MinedCaptions
from vlp.data.samples import SampleSet
from vlp.data.shards.cards import load_card
from vlp.data.texts.captions import Captions
from vlp.embeddings import mine as module
from vlp.embeddings.mine import mine
from vlp.embeddings.parts import Part, claim_folder, write_part
from vlp.ground.types import RecipeError

SIZE, WIDTH = 24, 6
LOST = 5  # could not be read when the card was embedded
CASES = [{"count": 4}, {"count": 3, "skip": 2}, {"count": 6, "below": 0.9}, {"count": 40, "skip": 1, "below": 0.5}]


@pytest.fixture(autouse=True)
def _small_stretches(monkeypatch):
    monkeypatch.setattr(module, "PARTS", 2)
    monkeypatch.setattr(module, "ROWS", 3)


def captions_of(number):
    """Captions that repeat those of other samples: the first as it is, the second as a first, with other spaces."""
    first = f"first {number % 19}"
    return [first, f"Other {number}", f" FIRST  {(number + 3) % 19} "]


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """A card whose samples have three captions each."""
    folder = tmp_path_factory.mktemp("card")
    members = {}
    for number in range(SIZE):
        kept = [member for member in sample_members(number, "png") if not member[0].endswith(".json")]
        record = json.dumps({"alt": captions_of(number)}).encode()
        members[number] = [*kept, (f"{number:06d}.json", record)]
    write_shards(folder / "shards", 2, SIZE // 2, replace=members)
    (folder / "several.yaml").write_text("name: several\nshards: shards/*.tar\ncaptions: {json.alt: 1.0}\n")
    return str(folder / "several.yaml")


@pytest.fixture(scope="module")
def rows():
    """Embeddings of images and of texts near them; equal first captions have equal ones."""
    draws = np.random.default_rng(0)
    images = draws.normal(size=(SIZE, WIDTH)).astype(np.float32)
    texts = images + draws.normal(scale=0.8, size=(SIZE, WIDTH)).astype(np.float32)
    return images, texts[[number % 19 for number in range(SIZE)]]


def embedded(folder, card, rows, file_format="npy", sides=("images", "texts")):
    """Write a folder as `vlp embed` does, in parts of seven samples."""
    samples = SampleSet({"several": load_card(card)})
    manifest = {"samples": SIZE, "samples_per_part": 7, "format": file_format, "sides": list(sides), "data": "several"}
    claim_folder(folder, manifest | {"fingerprint": samples.cards["several"].fingerprint})
    for number, start in enumerate(range(0, SIZE, 7)):
        ids = [each for each in range(start, min(start + 7, SIZE)) if each != LOST]
        part = Part(ids, [str(each) for each in ids], [captions_of(each)[0] for each in ids])
        part.images, part.texts = (side[ids] for side in rows)
        write_part(folder / f"part-{number:05d}", part, file_format, "float32")
    return folder


def by_hand(rows, count, skip=0, below=None):
    """The cosines of each image with captions that are not its own, one at a time."""
    images, texts = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in rows)
    candidates = {captions_of(number)[0]: texts[number] for number in range(SIZE) if number != LOST}
    found = []
    for number in range(SIZE):
        own = {" ".join(text.split()).lower() for text in captions_of(number)}
        right = float(images[number] @ texts[number])
        limit = np.inf if below is None else right - (1 - below) * abs(right)
        cosines = {text: float(images[number] @ row) for text, row in candidates.items() if text not in own}
        ordered = sorted((text for text in cosines if cosines[text] <= limit), key=lambda text: -cosines[text])
        found.append([] if number == LOST else ordered[skip : skip + count])
    return found


def mined_in(folder):
    mined = MinedCaptions(folder)
    return [mined.of(number) for number in range(SIZE)]


@pytest.mark.parametrize("file_format", ["npy", "parquet"])
@pytest.mark.parametrize("limits", CASES)
def test_equals_brute_force(tmp_path, card, rows, limits, file_format):
    told = mine(embedded(tmp_path / "e", card, rows, file_format), card, tmp_path / "m", **limits)
    expected = by_hand(rows, **limits)
    assert mined_in(tmp_path / "m") == expected
    assert told["images"] == SIZE - 1 and any(expected)
    assert told["with_fewer"] == sum(len(each) < limits["count"] for each in expected) - 1
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted(
        [ABOUT, module.MANIFEST, "captions.jsonl", "numbers.npy", "starts.npy"]
    )


def test_a_caption_of_an_image_is_never_mined_for_it_in_whatever_spelling(tmp_path, card, rows):
    mine(embedded(tmp_path / "e", card, rows), card, tmp_path / "m", count=40)
    known = {captions_of(number)[0] for number in range(SIZE) if number != LOST}
    for number, found in enumerate(mined_in(tmp_path / "m")):
        own = {" ".join(text.split()).lower() for text in captions_of(number)}
        assert set(found) == (set() if number == LOST else known - own) and len(set(found)) == len(found)


def test_goes_on_where_it_was_stopped_and_then_rests(tmp_path, card, rows, monkeypatch):
    folder = embedded(tmp_path / "e", card, rows)
    mine(folder, card, tmp_path / "whole", count=4)
    stretch, seen = module._Miner._stretch, []

    def stop_at_second(miner, numbers):
        seen.append(list(numbers))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return stretch(miner, numbers)

    monkeypatch.setattr(module._Miner, "_stretch", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        mine(folder, card, tmp_path / "m", count=4)
    with pytest.raises(RecipeError, match="holds no mined captions"):
        MinedCaptions(tmp_path / "m")
    mine(folder, card, tmp_path / "m", count=4)
    assert seen == [[0, 1], [2, 3], [2, 3]]
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "m" / path.name).read_bytes() == path.read_bytes()
    mine(folder, card, tmp_path / "m", count=4)
    assert len(seen) == 3


def _mine(_rank, _world_size, folder, card, to):
    module.PARTS, module.ROWS = 1, 3
    return mine(folder, card, to, count=4)


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path, card, rows):
    folder = embedded(tmp_path / "e", card, rows)
    one = _mine(0, 1, folder, card, tmp_path / "one")
    assert run_processes(_mine, 2, folder, card, tmp_path / "two") == [one, one]
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_captions_of_the_recipe_decide_what_is_right(tmp_path, card, rows):
    """Under another key a sample has another caption, and what stands under the card's is wrong for it."""
    samples = SampleSet({"several": load_card(card)})
    folder = embedded(tmp_path / "e", card, rows)
    limits = {"count": 40, "skip": 0, "below": None, "device": "cpu"}
    module.mine_card(folder, samples, tmp_path / "m", captions=Captions(keys={"txt": 1.0}), **limits)
    found = mined_in(tmp_path / "m")
    assert len(found[0]) == 18 - 1 and "first 3" in found[0]  # all but the one that was embedded for it


def test_what_cannot_be_mined_is_refused(tmp_path, card, rows):
    folder, to = embedded(tmp_path / "e", card, rows), tmp_path / "m"
    other, _ = write_card(tmp_path)
    for arguments, message in (
        ((folder, other, to), "has embeddings of other samples than this card: embed it anew"),
        ((tmp_path / "none", card, to), "vlp embed MODEL DATA --to"),
        ((embedded(tmp_path / "i", card, rows, sides=("images",)), card, to), "no embeddings of texts"),
    ):
        with pytest.raises(RecipeError, match=message):
            mine(*arguments)
    for limits, message in (
        ({"count": 0}, "--count: 0 must be at least 1"),
        ({"skip": -1}, "--skip: -1 must not be negative"),
        ({"below": 1.5}, "--below: 1.5 must be a share"),
    ):
        with pytest.raises(RecipeError, match=message):
            mine(folder, card, to, **limits)
    mine(folder, card, to, count=4)
    with pytest.raises(RecipeError, match="written with another count: 4, not 5; choose another folder"):
        mine(folder, card, to, count=5)
    shutil.rmtree(to)
    (folder / "part-00001.json").unlink()
    with pytest.raises(RecipeError, match="1 of 4 parts are missing; run vlp embed again"):
        mine(folder, card, to)


def test_the_command_says_what_it_has_mined(tmp_path, card, rows, capsys):
    folder = embedded(tmp_path / "e", card, rows)
    main(["mine", str(folder), card, "--to", str(tmp_path / "m"), "--count", "3", "--skip", "1", "--below", "0.9"])
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'm'}: 3 captions of others mined for each of 23 images; ")
    assert mined_in(tmp_path / "m") == by_hand(rows, 3, 1, 0.9)
