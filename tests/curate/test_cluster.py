"""A cluster finds the same list as one machine. Needs Ray, which is half a gigabyte and in no extra."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

from tests.curate.pairs import photo, write_pairs
from vlp.curate.filter import filter_card
from vlp.data.shards.cards import load_card

SCRIPT = Path(__file__).parents[2] / "data" / "prepare" / "filter_with_ray.py"
RULES = "duplicate_images: {}\nimages_per_caption: {most: 2}\nrare_words: {frequent: 4, megabytes: 1}\n"


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    ray = pytest.importorskip("ray", reason="pip install 'ray[data]' to test the cluster script")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    paths = [str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}})
    yield runpy.run_path(str(SCRIPT))
    ray.shutdown()


def test_a_cluster_keeps_what_one_machine_keeps(cluster, tmp_path):
    captions = ["a cat", "a dog", "a cat", "a bird", "a cat", "a dog"]
    pairs = [(photo(number % 4), caption) for number, caption in enumerate(captions)]
    card = load_card(write_pairs(tmp_path, pairs, 2))
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    one = filter_card(card, tmp_path / "one" / "kept.yaml", rules, workers=1)
    many = cluster["filter_on_cluster"](card, tmp_path / "many" / "kept.yaml", rules)
    assert (many.kept, [step.dropped for step in many.steps]) == (one.kept, [step.dropped for step in one.steps])
    assert 0 < one.kept < len(captions)
    assert (tmp_path / "many" / "kept.keep.npz").read_bytes() == (tmp_path / "one" / "kept.keep.npz").read_bytes()
