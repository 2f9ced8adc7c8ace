"""The benchmark of fine-tuning: every way takes its steps, and trains what it says."""

from __future__ import annotations

import pytest

from benchmarks.bench_finetune import PEER, WAYS, FineTuning, measure, table


@pytest.mark.filterwarnings("ignore:model.freeze")  # towers start at random here
def test_every_way_and_the_peer_take_steps(tmp_path):
    found = {each.way: each for each in measure("toy", 4, 1, tmp_path)}
    assert list(found) == [*WAYS, PEER]
    assert all(len(each.seconds) == 1 and each.seconds[0] > 0 for each in found.values())
    full, lora, lit = found["full"], found["lora"], found["lit"]
    assert full.trained > lit.trained > found["last_blocks"].trained > lora.trained > found["heads"].trained > 0
    assert full.state == 12 * full.trained / 1e6
    assert full.graph > lit.graph > 0
    assert found[PEER].graph > lora.graph  # its captions are padded


def test_the_table_compares_with_the_whole_model():
    rows = table([FineTuning("full", 1000, 2.0, 3.0, [4.0, 4.0]), FineTuning("lora", 10, 0.1, 3.0, [3.0, 3.0])])
    assert [row[0] for row in rows] == ["way", "full", "lora"]
    assert rows[2][1:4] == ["10", "3.00 (3.00 .. 3.00)", "0.75"]
