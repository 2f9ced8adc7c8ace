"""Indices are built once, ahead of the stream, which then builds none."""

from __future__ import annotations

import pytest

from tests.shards import write_shards
from vlp.curate.index import index_card
from vlp.data import SampleSet
from vlp.data import shards as shards_module
from vlp.types import RecipeError
from vlp.yaml import write_yaml


@pytest.fixture
def card(tmp_path):
    write_shards(tmp_path / "shards", 3, 2)
    path = tmp_path / "mine.yaml"
    path.write_text(write_yaml({"name": "mine", "shards": "shards/*.tar"}))
    return path


def test_the_stream_uses_the_indices(card, monkeypatch):
    from vlp.curate.cards import open_card

    indices = index_card(str(card), workers=1)
    assert indices.samples == 6
    assert "mine: 6 samples, " in str(indices) and "3 indices built, 0 were there" in str(indices)
    monkeypatch.setattr(shards_module, "scan_tar", lambda path: pytest.fail(f"{path} scanned again"))
    assert len(SampleSet({"mine": open_card(str(card))})) == 6
    assert "0 indices built, 3 were there" in str(index_card(str(card), workers=1))


def test_a_shard_that_changed_is_indexed_again(card):
    index_card(str(card), workers=1)
    write_shards(card.parent / "shards", 1, 5)
    indices = index_card(str(card), workers=1)
    assert indices.samples == 9 and [shard.fresh for shard in indices.shards] == [False, True, True]


def test_a_broken_index_is_built_again_and_a_broken_shard_named(card):
    folder = index_card(str(card), workers=1).folder
    for path in folder.glob("*.npz"):
        path.write_bytes(b"")
    (card.parent / "shards" / "00002.tar").write_bytes(b"no tar")
    indices = index_card(str(card), workers=1)
    assert indices.samples == 4 and not any(shard.fresh for shard in indices.shards)
    assert "00002.tar: not a tar file" in str(indices)


def test_a_cache_that_cannot_be_written_is_an_error(card, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RecipeError, match="set XDG_CACHE_HOME"):
        index_card(str(card), workers=1)


@pytest.mark.processes
def test_two_processes_build_the_same(card):
    indices = index_card(str(card), workers=2)
    assert indices.samples == 6 and not any(shard.fresh for shard in indices.shards)
