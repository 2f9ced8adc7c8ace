"""Every sample is in one part, and stays there."""

from __future__ import annotations

import numpy as np
import pytest

from tests.curate.pairs import captions_in, photo, write_pairs
from tests.shards import write_tar
from vlp.cli import main
from vlp.curate.filter import filter_card
from vlp.curate.split import split_card
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError

SHARES = "train=0.7,val=0.2,test=0.1"


def pairs_of(count, start=0):
    return [(photo(number, 16), f"caption {number}") for number in range(start, start + count)]


def parts_of(split):
    return {part.card.stem.rpartition("-")[2]: captions_in(part.card) for part in split.parts}


@pytest.mark.parametrize("by", ["key", "image", "caption"])
def test_parts_are_disjoint_and_complete_and_of_the_size_asked_for(tmp_path, by):
    card = write_pairs(tmp_path, pairs_of(400), 50)
    parts = parts_of(split_card(load_card(card), tmp_path / "parts", SHARES, by=by, workers=1))
    everything = [caption for part in parts.values() for caption in part]
    assert sorted(everything) == sorted(captions_in(card))
    # Three standard deviations of a binomial draw of 400.
    assert len(parts["train"]) == pytest.approx(280, abs=28)
    assert len(parts["val"]) == pytest.approx(80, abs=24)


def test_the_split_depends_on_samples_and_seed_alone(tmp_path):
    found = {}
    for name, shard, workers, seed in (("a", 50, 1, 0), ("b", 7, 2, 0), ("c", 50, 1, 1)):
        card = write_pairs(tmp_path / name, pairs_of(100), shard)
        found[name] = parts_of(
            split_card(load_card(card), tmp_path / name / "parts", SHARES, seed=seed, workers=workers)
        )
    assert found["a"] == found["b"]
    assert found["a"] != found["c"]


def test_a_sample_keeps_its_part_when_the_set_grows(tmp_path):
    card = write_pairs(tmp_path, pairs_of(100), 50)
    before = parts_of(split_card(load_card(card), tmp_path / "parts", SHARES, workers=1))
    write_pairs(tmp_path, pairs_of(60, 100), 50, start=100)
    after = parts_of(split_card(load_card(card), tmp_path / "parts", SHARES, workers=1))
    assert all(set(before[part]) <= set(after[part]) for part in before)
    assert sum(map(len, after.values())) == 160


def test_recoded_images_and_equal_captions_stay_together(tmp_path):
    pairs = [(photo(number % 40, 64, 90 - number // 40 * 5), f"Caption {number % 20}") for number in range(80)]
    card = write_pairs(tmp_path, pairs, 20)
    for by, groups in (("image", 40), ("caption", 20)):
        split = split_card(load_card(card), tmp_path / by, "a=0.5,b=0.5", by=by, workers=1)
        number_of = [set(np.load(part.card.with_suffix(".keep.npz"))["kept"] % groups) for part in split.parts]
        if by == "caption":
            assert not number_of[0] & number_of[1]
        # A code may differ by a few bits after recoding; that few do is all that is promised.
        assert len(number_of[0] & number_of[1]) <= 6


def test_what_has_no_image_goes_by_its_key(tmp_path):
    card = write_pairs(tmp_path, pairs_of(20), 10)
    write_tar(tmp_path / "shards" / "9.tar", [(f"x{number}.txt", b"no image") for number in range(10)])
    split = split_card(load_card(card), tmp_path / "parts", "a=0.5,b=0.5", by="image", workers=1)
    assert sum(part.samples for part in split.parts) == 30
    assert min(captions_in(part.card).count("no image") for part in split.parts) > 0


def test_a_filtered_card_splits_what_is_left(tmp_path, capsys):
    card = write_pairs(tmp_path, pairs_of(40), 10)
    (tmp_path / "rules.yaml").write_text("images_per_caption: {most: 1}\nlength: {fewest: 1, most: 2}")
    kept = filter_card(load_card(card), tmp_path / "kept.yaml", tmp_path / "rules.yaml", workers=1).card
    main(["data", "split", str(kept), "--to", str(tmp_path), "--shares", "train=0.5,val=0.5", "--seed", "3"])
    assert "40  samples of kept" in capsys.readouterr().out
    both = captions_in(tmp_path / "kept-train.yaml") + captions_in(tmp_path / "kept-val.yaml")
    assert sorted(both) == sorted(captions_in(kept))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("train=0.9", "their sum 1, not 0.9"),
        ("train=0.9,train=0.1", "different names"),
        ("train=1.2,val=-0.2", "larger than 0"),
        ("train=most,val=0.1", "'most' is no number"),
        ("../up=0.5,val=0.5", "PART=SHARE"),
        ("train=0.999999,val=0.000001", "no sample falls into val"),
        ("train=0.5,val=nan", "larger than 0, and their sum 1, not nan"),
        ("train=inf,val=0.5", "larger than 0, and their sum 1, not inf"),
    ],
)
def test_a_mistake_in_the_shares_is_explained(tmp_path, shares, message):
    card = write_pairs(tmp_path, pairs_of(4))
    with pytest.raises(RecipeError, match=message):
        split_card(load_card(card), tmp_path / "parts", shares, workers=1)
    assert not list(tmp_path.glob("parts/*.yaml"))
