"""Every test gets a cache folder of its own; some a card, small pieces of batches, and a stream from a few words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.shards import LetterTokenizer, write_shards
from vlp.data import Captions, Card, Crop, SampleSet, Stream, TextAugment, Views
from vlp.data.processes import pool


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def card(tmp_path) -> Card:
    return write_shards(tmp_path / "tiny", num_shards=2, samples_per_shard=9, formats=("png",))


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 2)


@pytest.fixture
def open_stream() -> Callable[..., Stream]:
    def build(*cards: Card, captions: Captions | None = None, size: int = 8, **settings: Any) -> Stream:
        samples = SampleSet({card.name: card for card in cards})
        settings = {"batch_size": 4, "seed": 0, **settings}
        views = Views(
            (Crop(size),) * settings.pop("num_views", 1),
            captions or Captions(),
            (TextAugment(),) * settings.pop("num_text_views", 1),
        )
        return Stream(samples, views, LetterTokenizer(), **settings)

    return build
