"""Captions that shout go, those with a name stay."""

from tests.curate.pairs import captions_in, photo, write_pairs
from vlp.curate.filter import filter_card
from vlp.data.shards.cards import load_card


def test_captions_that_shout_go(tmp_path):
    captions = ["BIG SALE NOW", "a boat in Rome", "NASA", "12:30", "Sale OFF"]
    card = write_pairs(tmp_path, [(photo(number), caption) for number, caption in enumerate(captions)])
    rules = tmp_path / "rules.yaml"
    rules.write_text("capitals: {most: 0.6}")
    kept = filter_card(load_card(str(card)), tmp_path / "kept.yaml", rules, workers=1)
    assert captions_in(kept.card) == ["a boat in Rome", "12:30", "Sale OFF"]
    assert "100% capitals" in (tmp_path / "kept.report.json").read_text()
