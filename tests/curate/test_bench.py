"""`vlp data bench`: what a loader gives by itself."""

from __future__ import annotations

import pytest

from tests.shards import write_shards
from vlp.cli import main
from vlp.curate.bench import Speed, Speeds, bench_card
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError
from vlp.ground.yaml import write_yaml


@pytest.fixture
def card_file(tmp_path):
    card = write_shards(tmp_path / "tiny", num_shards=2, samples_per_shard=8)
    path = tmp_path / "tiny.yaml"
    path.write_text(write_yaml({"name": "tiny", "shards": str(card.folder / "*.tar")}))
    return path


def test_every_number_of_processes_up_to_the_most_is_measured(card_file):
    speeds = bench_card(load_card(str(card_file)), image_size=8, seconds=0.05, workers=3)
    assert [row.workers for row in speeds.rows] == [0, 1, 2, 3]
    assert all(row.samples_per_second > 0 for row in speeds.rows)


def test_the_command_says_what_to_set(card_file, capsys):
    main(["data", "bench", str(card_file), "--size", "8", "--seconds", "0.05", "--workers", "1", "--needed", "1"])
    printed = capsys.readouterr().out
    assert "images of 8 px" in printed
    assert "set data.workers=1" in printed


def test_more_processes_that_bring_nothing_are_not_advised():
    speeds = Speeds("card", 224, 4, (Speed(0, 100), Speed(1, 100), Speed(2, 199), Speed(4, 201)))
    assert speeds.best.workers == 2
    assert speeds.advice(150).endswith("data.workers=2")
    assert "waits for data: 199" in speeds.advice(500)


@pytest.mark.parametrize("wrong", [{"image_size": 0}, {"seconds": 0}])
def test_nothing_to_measure_is_refused(card_file, wrong):
    with pytest.raises(RecipeError, match="larger than 0"):
        bench_card(load_card(str(card_file)), **wrong)
