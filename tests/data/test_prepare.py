"""The script that fills in cards."""

from __future__ import annotations

import runpy
from pathlib import Path

from tests.shards import write_shards
from vlp.data import Card
from vlp.yaml import read_yaml

SCRIPT = Path(__file__).parents[2] / "data" / "prepare" / "card.py"


def test_a_card_is_filled_in_and_keeps_what_it_said(tmp_path):
    write_shards(tmp_path / "shards", 2, 3)
    path = tmp_path / "x.yaml"
    path.write_text("# why this set\nname: x\nshards: shards/*.tar\nsamples: 99\nlicence: CC0-1.0\n")
    fill_in = runpy.run_path(str(SCRIPT))["fill_in"]
    fill_in(path)
    card = Card.from_mapping(read_yaml(path), path)
    assert card.samples == 6 and list(card.sha256) == ["shards/00000.tar", "shards/00001.tar"]
    assert card.licence == "CC0-1.0" and path.read_text().startswith("# why this set\n")
    card.verify()
    before = path.read_text()
    fill_in(path)
    assert path.read_text() == before
